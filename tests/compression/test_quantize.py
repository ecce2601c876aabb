"""`quantize` as users call it: results, reports and refusals."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tvm import relax

from lepton_tvm.compiler import pipeline
from lepton_tvm.compression.quantize import QuantizeConfig, quantize, quantize_model
from lepton_tvm.errors import InputError
from lepton_tvm.ir.graph import same_structure
from lepton_tvm.model import Model
from lepton_tvm.passes.lower.int8.lower_int8 import LowerInt8
from tests.support.quantized_graphs import Array, Net, model_of, net, ops_of


def _write(n: Net, x: Any) -> Any:
    y = n.relu(n.bias(n.conv(x, 8, 3, padding=1)))
    y = n.op(relax.op.add(n.bias(n.conv(y, 8, 3, padding=1, groups=8)), y))
    y = n.op(relax.op.nn.max_pool2d(y, (2, 2), (2, 2), layout="NHWC"))
    y = n.op(relax.op.mean(n.relu(n.conv(y, 16)), [1, 2]))
    return n.op(relax.op.nn.softmax(n.bias(n.dense(y, 5))))


def _model(batch: int = 1) -> Model:
    return model_of(net(_write, (batch, 8, 8, 4)))


def _data(rows: int = 16, seed: int = 3) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, 8, 8, 4)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "mse"])
def test_outputs_stay_close_to_float(batch: int, calibrator: str) -> None:
    model = _model(batch)
    made = quantize(model, _data(), config=QuantizeConfig(calibrator=calibrator))
    inputs = [_data(batch, seed) for seed in range(4)]
    float_run, int8_run = pipeline.executor(model.module), pipeline.executor(made.module)
    exact = np.concatenate([float_run([x])[0] for x in inputs])
    error = np.concatenate([int8_run([x])[0] for x in inputs]) - exact
    assert 10 * np.log10((exact**2).sum() / (error**2).sum()) > 20


def test_every_convolution_and_product_runs_in_integers() -> None:
    build = pipeline.build(quantize(_model(), _data()).module)
    heavy = [k for k in build.kernels if k.macs]
    assert len(heavy) == 4
    assert {k.precision for k in heavy} == {"int8"}


@pytest.mark.parametrize("name", ["int8", "uniform"])
def test_both_names_of_int8_make_the_same_model(name: str) -> None:
    model = _model()
    made, named = quantize(model, _data()), quantize(model, _data(), method=name)
    assert same_structure(made.module, named.module)
    assert made.recipe == named.recipe
    assert named.recipe[-1].options["method"] == "uniform"


def test_the_model_says_what_was_done() -> None:
    model = _model()
    made = quantize(model, {"x": _data(8)})
    assert made.precision == "int8"
    assert model.precision == "float32"
    assert made.calibration_sha256 is not None
    assert made.calibration_sha256 != quantize(model, _data(9)).calibration_sha256
    step = made.recipe[-1]
    assert step.name == "quantize"
    assert step.options["samples"] == 8
    json.dumps(made.to_json())
    _, annotated, calibrated, inserted = step.reports
    assert annotated["numbers"]["anchors"] == 4
    assert [s["name"] for s in annotated["skipped"]] == ["softmax_0"]
    assert calibrated["ranges"]["x"]["count"] == 8 * 8 * 8 * 4
    assert inserted["numbers"]["corrected_biases"] == 4


def test_pixels_go_straight_into_the_first_convolution() -> None:
    def write(n: Net, x: Any) -> Any:
        pixels = n.op(
            relax.op.astype(n.op(relax.op.nn.pad(x, [0, 0, 1, 1, 1, 1, 0, 0])), "float32")
        )
        return n.bias(n.conv(pixels, 8, 3))

    model = model_of(net(write, (1, 8, 8, 3), dtype="uint8"))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    made = quantize(model, pixels)
    lowered, _ = LowerInt8()(made.module)
    assert ops_of(lowered)[:2] == ["relax.nn.pad", "relax.nn.conv2d"]
    assert made.recipe[-1].reports[1]["skipped"][0]["name"] == "pad_0"
    exact = pipeline.run(model.module, [pixels[:1]])[0]
    error = pipeline.run(made.module, [pixels[:1]])[0] - exact
    assert 10 * np.log10((exact**2).sum() / (error**2).sum()) > 30


def test_splits_and_shuffles_pass_uint8_on() -> None:
    def write(n: Net, x: Any) -> Any:
        y = n.relu(n.bias(n.conv(x, 8)))
        pieces = n.op(relax.op.split(y, [2, 6], axis=3))
        first, middle, last = (n.op(relax.TupleGetItem(pieces, i)) for i in range(3))
        y = n.op(relax.op.concat([first, n.relu(n.conv(middle, 4, 3, padding=1)), last], axis=3))
        y = n.op(relax.op.reshape(y, (1, 8, 8, 2, 4)))
        y = n.op(relax.op.permute_dims(y, [0, 1, 2, 4, 3]))
        return n.conv(n.op(relax.op.reshape(y, (1, 8, 8, 8))), 4)

    model = model_of(net(write))
    made = quantize(model, _data())
    assert made.recipe[-1].reports[0]["changed"] == 3
    assert made.recipe[-1].reports[1]["skipped"] == []
    lowered, report = LowerInt8()(made.module)
    assert report.skipped == ()
    assert "relax.split" not in ops_of(lowered)
    exact = pipeline.run(model.module, [_data(1)])[0]
    error = pipeline.run(made.module, [_data(1)])[0] - exact
    assert 10 * np.log10((exact**2).sum() / (error**2).sum()) > 25


def test_the_same_call_gives_the_same_model() -> None:
    model = _model()
    before = model.module.clone()
    first, again = quantize(model, _data()), quantize(model, _data())
    assert same_structure(first.module, again.module)
    assert same_structure(model.module, before)


def test_the_short_form_is_the_same_call() -> None:
    made = quantize_model(_model(), _data(), 8, progress=lambda done: None)
    assert same_structure(made.module, quantize(_model(), _data()).module)


def test_bias_correction_can_be_switched_off() -> None:
    made = quantize(_model(), _data(), config=QuantizeConfig(bias_correction=False))
    assert made.recipe[-1].reports[-1]["numbers"]["corrected_biases"] == 0


def test_progress_counts_the_samples() -> None:
    done: list[int] = []
    quantize(_model(), _data(3), progress=done.append)
    assert done == [1, 2, 3]


def test_skip_patterns_leave_float_kernels() -> None:
    made = quantize(_model(), _data(), config=QuantizeConfig(skip=("matmul_*",)))
    assert "relax.matmul" in ops_of(made.module)
    precisions = {k.op: k.precision for k in pipeline.build(made.module).kernels if k.macs}
    assert precisions["matmul"] == "float32" or len(set(precisions.values())) == 2


@pytest.mark.parametrize("rows", [np.zeros((4, 8, 8, 4), np.float32), np.full((1, 8, 8, 4), 3.0)])
def test_constant_calibration_data_is_safe(rows: Array) -> None:
    made = quantize(_model(), rows)
    assert np.isfinite(pipeline.run(made.module, [_data(1)])[0]).all()


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (None, {}, "quantize needs calibration data"),
        ([], {}, "the data holds no samples"),
        ({"y": _data()}, {}, "missing: x; unknown: y"),
        (_data()[:, :4], {}, r"'x' has shape \[1, 4, 8, 4\], the model takes \[1, 8, 8, 4\]"),
        (_data().astype(np.int32), {}, "has dtype int32, the model takes float32"),
        (_data() * np.inf, {}, "NaN or infinite"),
        (_data(), {"bit_width": 4}, "weight_bits=4 is not supported"),
        (
            _data(),
            {"method": "magic"},
            "unknown quantization method 'magic'; known: int8, bfloat16",
        ),
        (_data(), {"config": QuantizeConfig(skip=("nothing",))}, "matches no op"),
        (_data(), {"config": QuantizeConfig(skip=("*",))}, "nothing in model 'small' can be"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_bad_calls_are_refused(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantize(_model(), data, **options)


def test_a_quantized_model_is_not_quantized_again() -> None:
    made = quantize(_model(), _data())
    with pytest.raises(InputError, match="'small' is quantized already"):
        quantize(made, _data())


def test_a_model_without_weights_is_refused_with_the_reasons() -> None:
    model = model_of(net(lambda n, x: n.op(relax.op.nn.softmax(x))))
    with pytest.raises(InputError, match=r"'softmax_0' \(relax.nn.softmax\): kept in float"):
        quantize(model, _data())
