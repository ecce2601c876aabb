"""ONNX models that somebody else quantized (QDQ, signed or unsigned) compute in integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm import relax

from lepton_tvm.bench import bench
from lepton_tvm.compare import compare
from lepton_tvm.compiler import pipeline
from lepton_tvm.compiler.compile import compile, variant_name
from lepton_tvm.compression.quantize import quantize
from lepton_tvm.errors import InputError
from lepton_tvm.frontend import load_model, save_model
from lepton_tvm.ir import graph as g
from lepton_tvm.model import Model
from lepton_tvm.passes.graph.canonicalize.constant_folding import fold_constant_call
from lepton_tvm.passes.lower.int8.lower_int8 import LowerInt8
from lepton_tvm.passes.quantize import qparams as qp
from lepton_tvm.passes.quantize.annotate import annotate
from lepton_tvm.passes.quantize.qparams import QParams
from lepton_tvm.targets import parse_target
from tests.support.onnx_models import Graph, run_reference
from tests.support.quantized_calls import OUT, w, weights
from tests.support.quantized_graphs import Net, int_conv2d, net

_STEP = 0.01  # of the output
_TYPES = {"int8": (np.int8, 0), "uint8": (np.uint8, 128)}


def qdq_model(dtype: str, path: Path) -> Path:
    """Convolutions (a scale per channel, one for all), a shortcut, a pool, a transposed matrix."""
    kind, zero = _TYPES[dtype]
    made = Graph(13)

    def qdq(x: str, scale: float) -> str:
        units = made.weight(np.float32(scale)), made.weight(kind(zero))
        return str(made.op("DequantizeLinear", made.op("QuantizeLinear", x, *units), *units))

    def codes(*shape: int, per_channel: bool = True) -> tuple[str, Any]:
        values = made.weight(made.rng.integers(-127, 128, shape).astype(np.int8))
        count = shape[0] if per_channel else ()
        scales = np.asarray(made.rng.uniform(0.001, 0.002, count), np.float32)
        zeros = made.weight(np.zeros(scales.shape, np.int8))
        axis: dict[str, Any] = {"axis": 0} if per_channel else {}
        return made.op("DequantizeLinear", values, made.weight(scales), zeros, **axis), scales

    def bias(scales: Any) -> str:
        values = made.weight(made.rng.integers(-9000, 9000, len(scales)).astype(np.int32))
        units = made.weight((np.float32(0.03) * scales).astype(np.float32))
        return str(made.op("DequantizeLinear", values, units, axis=0))

    x = qdq(made.input("x", [1, 16, 9, 9]), 0.03)
    weight, scales = codes(24, 16, 3, 3)
    y = made.op("Relu", made.op("Conv", x, weight, bias(scales), pads=[1, 1, 1, 1]))
    y = made.op("Conv", qdq(y, 0.05), codes(16, 24, 1, 1, per_channel=False)[0])
    y = qdq(made.op("Add", qdq(y, 0.04), x), 0.06)
    y = qdq(made.op("GlobalAveragePool", y), 0.02)
    weight, scales = codes(10, 16)
    y = made.op("Gemm", made.op("Flatten", y), weight, transB=1)
    made.output(qdq(y, _STEP))
    return made.save(path / f"{dtype}.onnx")


def answers(model: Model, x: Any) -> Any:
    """Ours, with the reports' reasons and the precisions of all kernels with products."""
    built = pipeline.build(model.module, parse_target("native"))
    assert [r.skipped for r in built.reports] == [()] * len(built.reports)
    assert {k.precision for k in built.kernels if k.macs} == {"int8"}
    assert sum(bool(k.macs) for k in built.kernels) == 3
    (y,) = pipeline.run(model.module, [x])
    return y


def test_signed_and_unsigned_models_compute_in_integers_what_onnx_runtime_does(
    tmp_path: Path,
) -> None:
    x = np.random.default_rng(1).standard_normal((1, 16, 9, 9)).astype(np.float32)
    made = {}
    for dtype in _TYPES:
        path = qdq_model(dtype, tmp_path)
        made[dtype] = answers(load_model(path), x)
        (wanted,) = run_reference(path, {"x": x})
        # a tie or two may be rounded the other way before: one step of the output at most
        steps = np.rint((made[dtype] - wanted) / np.float32(_STEP))
        assert np.abs(steps).max() <= 1
        assert (steps == 0).mean() >= 0.8
    assert len(np.unique(made["int8"])) > 5
    np.testing.assert_array_equal(made["int8"], made["uint8"])


def test_what_is_quantized_already_is_said_to_be(tmp_path: Path) -> None:
    model = load_model(qdq_model("int8", tmp_path))
    assert (model.precision, variant_name(model)) == ("int8", "int8")
    save_model(model, tmp_path / "m.lepton")
    assert load_model(tmp_path / "m.lepton").precision == "int8"
    with pytest.raises(InputError, match="quantized already; start from the float model"):
        quantize(model, {"x": np.zeros((1, 16, 9, 9), np.float32)})
    database = tmp_path / "lepton.db"
    compile(model, db=database)
    with pytest.raises(InputError, match=r"no float baseline .* quantized already.*stored: int8"):
        compare(db=database)
    with pytest.raises(InputError, match="is int8 already: bench takes a float model"):
        bench(tmp_path / "int8.onnx")
    plan = annotate(model.module)
    assert plan.anchors == ()
    reasons = {s.name: s.reason for s in plan.skipped}
    for name in ("conv2d_0", "conv2d_1", "matmul_0"):
        assert reasons[name] == "its weight is quantized already"


def test_int8_inputs_and_outputs_keep_their_type() -> None:
    params = QParams(0.02, 100)
    values, scales = weights((3, 3, 4, 9), 3)

    def units(of: QParams) -> tuple[Any, Any]:
        zero = np.array(of.zero_point - 128, np.int8)
        return g.constant(np.array(of.scale, np.float32)), g.constant(zero)

    def write(n: Net, x: Any) -> Any:
        x = n.op(relax.op.dequantize(x, *units(params), axis=-1, out_dtype="float32"))
        weight = w(n, values, scales, 3)
        y = n.op(relax.op.nn.conv2d(x, weight, data_layout="NHWC", kernel_layout="HWIO"))
        return n.op(relax.op.quantize(y, *units(OUT), axis=-1, out_dtype="int8"))

    made, report = LowerInt8()(net(write, (1, 6, 5, 4), dtype="int8"))
    assert report.changed == 1
    x = np.random.default_rng(0).integers(-128, 128, (1, 6, 5, 4)).astype(np.int8)
    acc = int_conv2d(x.astype(np.int64) + 128, values, zero_point=params.zero_point)
    multiplier = np.float64(params.scale) * scales.astype(np.float64)
    multiplier = (multiplier.astype(np.float32).astype(np.float64) / OUT.scale).astype(np.float32)
    wanted = qp.requantize(acc, multiplier, OUT, qp.requantize_bounds(OUT, None, None))
    (got,) = pipeline.run(made, [x])
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got.astype(np.int64) + 128, wanted)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_codes_that_are_no_weights_are_folded_to_floats(dtype: str) -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 100, (3, 5)).astype(dtype)
    scales = rng.uniform(0.1, 1, 5).astype(np.float32)
    zeros = np.array([0, 3, 7, 0, 100], dtype)
    made = relax.op.dequantize(g.constant(codes), g.constant(scales), g.constant(zeros), axis=1)
    builder = relax.BlockBuilder()
    folded = g.const_array(fold_constant_call(builder.normalize(made)))
    want = (codes.astype(np.int64) - zeros.astype(np.int64)).astype(np.float32) * scales
    np.testing.assert_array_equal(folded, want)
    if dtype == "int32":
        return
    back = relax.op.quantize(
        g.constant(want), g.constant(scales), g.constant(zeros), axis=1, out_dtype=dtype
    )
    np.testing.assert_array_equal(g.const_array(fold_constant_call(builder.normalize(back))), codes)
