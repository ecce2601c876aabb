"""Small models of kinds that users reported: import, compile, run, compare with the right answer.

What fails is listed by reason and expected to fail in that very way. Whoever mends a kind sees the
suite fail, and takes its names out of the table.
"""

from __future__ import annotations

import pytest

from lepton_tvm.compiler import pipeline
from lepton_tvm.errors import ModelError
from lepton_tvm.frontend import load_model
from lepton_tvm.frontend.operators import UnsupportedModelError
from tests.support.model_cases import CASES, FOLDER, Failing, with_failures


class DoesNotCompileError(Exception):
    """The model was imported, and then the compiler failed."""


#: Models that no static graph can stand for, or that are no standard ONNX -> how we refuse them.
REFUSED = {
    "norm_batch_training": "it is in training mode; export the model for inference",
    "versions_custom_domain": "custom domain 'my.ops' has no converters",
    "contrib_inverse": "com.microsoft operator has no converter",
    "control_if_on_data": "control flow that depends on data",
    "index_nms": "the shape of its output is only known at run time",
}

_LOAD, _COMPILE, _ANSWER = ModelError, DoesNotCompileError, AssertionError

FAILING = (
    # refused at load
    Failing(
        _LOAD,
        "Resize: a factor that does not divide the size is refused",
        ("resize_linear_2.5", "resize_nearest_asym_1.5_of_5"),
    ),
    Failing(_LOAD, "Resize: no antialias", ("resize_antialias_down",)),
    Failing(_LOAD, "Resize: of pictures only, not of a matrix", ("resize_2d_matrix",)),
    Failing(_LOAD, "AveragePool: onnx infers one window too many", ("pool_avg_ceil_17",)),
    Failing(_LOAD, "MaxPool: no Indices", ("pool_max_indices", "pool_unpool")),
    Failing(_LOAD, "LayerNormalization: no broadcast scale", ("norm_layer_broadcast_scale",)),
    Failing(_LOAD, "GroupNormalization: opset 18 is refused", ("norm_group_opset18",)),
    Failing(_LOAD, "OneHot: TVM's converter mixes up types", ("index_one_hot",)),
    Failing(_LOAD, "Slice: no empty result", ("index_slice_empty_reversed",)),
    Failing(_LOAD, "Constant: sparse_value is not read", ("constants_every_attribute",)),
    Failing(
        _LOAD,
        "an operator without a converter",
        ("act_swish_24", "index_reverse_sequence", "index_col2im", "versions_rotary_23"),
    ),
    Failing(_LOAD, "fused attention has no converter", ("versions_attention_23",)),
    Failing(_LOAD, "recurrent layers have no converter", ("recurrent_lstm", "recurrent_rnn")),
    Failing(
        _LOAD,
        "control flow with a constant trip count is not unrolled",
        ("control_loop_constant_trip", "control_scan"),
    ),
    Failing(_LOAD, "sequences of a known length are refused", ("control_sequence_split_at",)),
    Failing(
        _LOAD,
        "a com.microsoft operator of float without a converter",
        (
            "contrib_quick_gelu",
            "contrib_fused_matmul",
            "contrib_fused_conv_relu",
            "contrib_multi_head_attention",
            "contrib_simplified_layer_norm",
            "contrib_rotary_embedding",
            "contrib_ort_optimized_cnn",
        ),
    ),
    Failing(
        _LOAD,
        "QuantizeLinear and DequantizeLinear of com.microsoft have no converter",
        ("qdq_conv_contrib_qdq", "quantizer_ort_qdq_a16w8"),
    ),
    Failing(_LOAD, "blocked quantization has no converter", ("qdq_int8_blocked",)),
    Failing(_LOAD, "int4 weights cannot be read", ("qdq_int4_blocked",)),
    Failing(
        _LOAD,
        "integer operators (QLinear and its kind) have no converter",
        (
            "qlinear_conv",
            "qlinear_conv_integer",
            "qlinear_add",
            "qlinear_mul",
            "qlinear_global_average_pool",
            "qlinear_sigmoid",
            "qlinear_leaky_relu",
            "qlinear_dynamic_quantize_matmul",
            "qlinear_matmul_nbits",
            "quantizer_ort_qoperator",
        ),
    ),
    # imported, but does not compile
    Failing(
        _COMPILE,
        "a kernel that reads a scalar is not scheduled ('int' has no 'same_as')",
        (
            "index_where_broadcast",
            "arith_cast_forms",
            "rank0_divide_by_global_max",
            "rank0_cast_to_int32",
            "quantizer_ort_dynamic_mlp",
        ),
    ),
    Failing(
        _COMPILE,
        "a scalar between convolutions is not lowered",
        ("rank0_scale_by_mean_between_convs",),
    ),
    Failing(
        _COMPILE,
        "TVM's code for sort and scan (DispatchSortScan) is not in the pipeline",
        (
            "index_topk",
            "index_cumsum",
            "sorted_topk_last",
            "sorted_topk_first",
            "sorted_cumsum_plain",
            "sorted_cumsum_exclusive",
        ),
    ),
    Failing(
        _COMPILE,
        "TVM's scatter has no block 'root', which we ask for",
        ("index_scatter_elements", "scatter_elements_constant"),
    ),
    Failing(_COMPILE, "RoiAlign: our schedule does not fit it", ("index_roi_align_default",)),
    Failing(_COMPILE, "Resize to one line divides by zero", ("resize_align_corners_to_1",)),
    # compiles, and answers wrongly
    Failing(_ANSWER, "NaN is lost in Relu and Sign", ("act_nan_passes",)),
    Failing(_ANSWER, "ReduceLogSum: no logarithm over no axes", ("reduce_logsum_18",)),
    Failing(_ANSWER, "RoiAlign: half_pixel shifts before the scale", ("roi_align_scale_0.25",)),
    Failing(
        _ANSWER,
        "Resize of volumes: the nearest point is rounded otherwise",
        ("resize_3d_nearest_round_prefer_floor_asymmetric",),
    ),
)

_ANSWERED = [name for name in CASES if name not in REFUSED]


@pytest.mark.parametrize("name", with_failures(_ANSWERED, FAILING))
def test_a_case_is_answered(name: str) -> None:
    case = CASES[name]
    model = load_model(case.path)
    try:
        call = pipeline.executor(model.module)
    except Exception as error:
        raise DoesNotCompileError(f"{type(error).__name__}: {error}") from error
    case.check(call(case.inputs(model)))


@pytest.mark.parametrize("name", REFUSED)
def test_a_case_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=REFUSED[name]):
        load_model(CASES[name].path)


def test_every_file_is_in_the_table_and_every_row_has_its_files() -> None:
    stems = {path.stem for path in FOLDER.iterdir() if path.suffix == ".onnx"}
    assert stems == set(CASES)
    assert stems == {path.stem for path in FOLDER.iterdir() if path.suffix == ".npz"}
    assert set(REFUSED) <= stems
