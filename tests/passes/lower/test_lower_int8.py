"""True integer arithmetic: bit-exact against NumPy, nothing float left behind a Q/DQ pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from lepton_tvm.compiler import pipeline
from lepton_tvm.ir import graph as g
from lepton_tvm.passes.lower.int8.lower_int8 import LowerInt8
from lepton_tvm.passes.quantize import qparams as qp
from lepton_tvm.passes.quantize.qparams import QParams
from tests.support.quantized_calls import IN, OUT, lowered, q, quantized_conv, w, weights
from tests.support.quantized_graphs import Array, Net, int_conv2d, net, ops_of


def run(module: tvm.IRModule, *inputs: Array) -> Array:
    return pipeline.run(module, list(inputs))[0]


def codes(y: Array, params: QParams = OUT) -> Array:
    """The uint8 codes behind a dequantized tensor."""
    return np.rint(y / np.float32(params.scale)).astype(np.int64) + params.zero_point


@settings(max_examples=12)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 19)),
    groups=st.sampled_from([1, 2, "depthwise"]),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilation=st.integers(1, 2),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    zero_point=st.sampled_from([0, 100, 255]),
    activation=st.sampled_from([None, "relu", "clip"]),
    batch=st.integers(1, 2),
)
def test_conv2d_is_exact(
    size: tuple[int, int],
    kernel: tuple[int, int],
    channels: tuple[int, int],
    groups: int | str,
    strides: tuple[int, int],
    dilation: int,
    padding: tuple[int, int, int, int],
    zero_point: int,
    activation: str | None,
    batch: int,
) -> None:
    count = channels[0] if groups == "depthwise" else int(groups)
    c = channels[0] if groups == "depthwise" else channels[0] * count
    k = channels[1] * count
    padded = (size[0] + padding[0] + padding[2], size[1] + padding[1] + padding[3])
    if any(p < dilation * (s - 1) + 1 for p, s in zip(padded, kernel, strict=True)):
        return
    params = QParams(0.02, zero_point)
    values, scales = weights((*kernel, c // count, k), 3)
    bias = np.linspace(-3, 3, k).astype(np.float32)
    attrs = {"strides": strides, "padding": padding, "dilation": (dilation, dilation)}
    bounds = {None: (None, None), "relu": (0.0, None), "clip": (-0.3, 2.0)}[activation]

    def write(n: Net, x: Any) -> Any:
        y = n.op(
            relax.op.nn.conv2d(
                q(n, x, params),
                w(n, values, scales, 3),
                groups=count,
                data_layout="NHWC",
                kernel_layout="HWIO",
                **attrs,
            )
        )
        y = n.op(relax.op.add(y, g.constant(bias.reshape(1, 1, 1, -1))))
        if activation == "relu":
            y = n.relu(y)
        if activation == "clip":
            y = n.op(relax.op.clip(y, *bounds))
        return q(n, y, OUT)

    module = net(write, (batch, *size, c))
    made = lowered(module, 1)
    x = np.random.default_rng(0).normal(size=(batch, *size, c)).astype(np.float32)
    acc = int_conv2d(qp.quantize(x, params), values, **attrs, groups=count, zero_point=zero_point)
    acc_scales = (np.float64(params.scale) * scales.astype(np.float64)).astype(np.float32)
    acc += qp.integer_bias(bias, acc_scales, np.zeros(k), 0)
    multiplier = (acc_scales.astype(np.float64) / OUT.scale).astype(np.float32)
    expected = qp.requantize(acc, multiplier, OUT, qp.requantize_bounds(OUT, *bounds))
    assert np.array_equal(codes(run(made, x)), expected)


@settings(max_examples=8)
@given(
    shape=st.sampled_from([(1, 5), (3, 7), (1, 2, 9), (2, 3, 4)]),
    n_out=st.integers(1, 37),
    zero_point=st.sampled_from([0, 9]),
)
def test_matmul_is_exact_and_its_output_stays_float(
    shape: tuple[int, ...], n_out: int, zero_point: int
) -> None:
    params = QParams(0.02, zero_point)
    values, scales = weights((shape[-1], n_out), 1)

    def write(n: Net, x: Any) -> Any:
        return n.op(relax.op.matmul(q(n, x, params), w(n, values, scales, 1)))

    made = lowered(net(write, shape), 1)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    acc = (qp.quantize(x, params).astype(np.int64) - zero_point) @ values.astype(np.int64)
    acc_scales = (np.float64(params.scale) * scales.astype(np.float64)).astype(np.float32)
    assert np.array_equal(run(made, x), acc.astype(np.float32) * acc_scales)
    assert "relax.quantize" in ops_of(made)
    assert "relax.dequantize" not in ops_of(made)


def test_a_float_module_is_left_as_it_is() -> None:
    module = net(lambda n, x: n.relu(n.bias(n.conv(x, 4))))
    lowered(module, 0)
    assert g.same_structure(LowerInt8()(module)[0], module)


def agree_within_a_step(module: tvm.IRModule, changed: int, params: QParams = OUT) -> tvm.IRModule:
    """The integer form against the float arithmetic of the pairs, and against NumPy's rounding."""
    made = lowered(module, changed)
    shape = g.shape_of(g.main_of(module).params[0])
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    exact = _interpret(module, x)
    error = np.abs(codes(run(made, x), params) - codes(exact, params))
    assert error.max() <= 1  # float32 sums in another order may cross a rounding border
    assert (error > 0).mean() <= 0.05
    return made


def _interpret(module: tvm.IRModule, x: Array) -> Array:
    """The Q/DQ module by TVM's own float legalization, without the integer lowering."""
    executable = tvm.compile(module, tvm.target.Target("llvm"))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    made: Array = machine["main"](tvm.runtime.tensor(x)).numpy()
    return made


@pytest.mark.parametrize("padding", [0, 1])
def test_max_pool_reads_and_writes_uint8(padding: int) -> None:
    def write(n: Net, x: Any) -> Any:
        y = relax.op.nn.max_pool2d(q(n, x, OUT), (3, 3), (2, 2), (padding, padding), layout="NHWC")
        return q(n, n.op(y), OUT)

    made = agree_within_a_step(net(write), 1)
    assert ops_of(made) == ["relax.quantize", "relax.nn.max_pool2d", "relax.dequantize"]


def test_pools_with_other_parameters_behind_them_are_requantized() -> None:
    def write(n: Net, x: Any) -> Any:
        y = n.op(relax.op.nn.max_pool2d(q(n, x, IN), (2, 2), layout="NHWC"))
        return q(n, y, OUT)

    agree_within_a_step(net(write), 1)


@pytest.mark.parametrize(
    "pool",
    [
        lambda y: relax.op.mean(y, [1, 2]),
        lambda y: relax.op.mean(y, [1, 2], keepdims=True),
        lambda y: relax.op.nn.adaptive_avg_pool2d(y, (1, 1), layout="NHWC"),
        lambda y: relax.op.nn.avg_pool2d(y, (3, 2), (2, 1), layout="NHWC"),
        lambda y: relax.op.nn.avg_pool2d(
            y, (3, 3), (2, 2), (1, 0, 1, 1), count_include_pad=True, layout="NHWC"
        ),
    ],
)
def test_averages_are_int32_sums(pool: Any) -> None:
    module = net(lambda n, x: q(n, n.op(pool(q(n, x, IN))), OUT), (2, 7, 6, 5))
    made = agree_within_a_step(module, 1)
    sums = [v for v in ops_of(made) if v in ("relax.sum", "relax.nn.conv2d")]
    assert len(sums) == 1
    assert "relax.mean" not in ops_of(made)


def test_concat_of_equal_scales_is_plain_and_of_others_requantizes() -> None:
    def write(n: Net, x: Any) -> Any:
        same, other = q(n, n.relu(x), OUT), q(n, n.op(relax.op.tanh(x)), IN)
        joined = n.op(relax.op.concat([same, other, same], axis=3))
        return q(n, joined, OUT)

    made = agree_within_a_step(net(write), 1)
    assert ops_of(made).count("relax.quantize") == 3
    equal = net(lambda n, x: q(n, n.op(relax.op.concat([q(n, x, OUT)] * 2, axis=3)), OUT))
    assert ops_of(lowered(equal, 1)) == ["relax.quantize", "relax.concat", "relax.dequantize"]


def test_a_residual_add_reads_integers_and_writes_integers() -> None:
    def write(n: Net, x: Any) -> Any:
        y = quantized_conv(n, x)
        side = q(n, y, OUT)
        return q(n, n.relu(n.op(relax.op.add(quantized_conv(n, side, seed=2), side))), OUT)

    made = agree_within_a_step(net(write, (1, 3, 3, 4)), 2)
    convs = [b.value for b in g.bindings_of(g.main_of(made)) if g.short_op(b.value) == "conv2d"]
    assert [g.dtype_of(c) for c in convs] == ["int32", "int32"]
    assert ops_of(made).count("relax.dequantize") == 3  # other scale, shortcut, output


def test_other_epilogues_run_in_float_between_accumulator_and_quantize() -> None:
    def write(n: Net, x: Any) -> Any:
        y = n.bias(quantized_conv(n, x))
        return q(n, n.op(relax.op.multiply(y, n.op(relax.op.sigmoid(y)))), OUT)

    agree_within_a_step(net(write), 1)


def test_each_reader_gets_its_own_dequantize() -> None:
    def write(n: Net, x: Any) -> Any:
        y = q(n, x, IN)
        return n.op(relax.op.sigmoid(y)), n.op(relax.op.tanh(y))

    assert ops_of(lowered(net(write), 0)).count("relax.dequantize") == 2


def test_a_value_that_is_also_an_output_is_computed_once() -> None:
    def write(n: Net, x: Any) -> Any:
        y = n.relu(quantized_conv(n, x))
        return y, quantized_conv(n, y, seed=2)

    module = net(write)
    made = lowered(module, 2)
    assert ops_of(made).count("relax.nn.conv2d") == 2
    assert ops_of(made).count("relax.nn.relu") == 1
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(np.float32)
    relu, last = pipeline.run(made, [x])
    values, scales = weights((1, 1, 4, 4), 3)
    acc = int_conv2d(qp.quantize(x, IN), values, zero_point=IN.zero_point)
    expected = np.maximum(acc * (np.float64(IN.scale) * scales), 0)
    np.testing.assert_allclose(relu, expected, rtol=1e-6)
    assert last.dtype == np.float32


def test_a_bias_that_would_overflow_is_added_in_float() -> None:
    values, scales = weights((4, 3), 1)
    bias = np.array([1e7, 0.0, -1e7], np.float32)

    def write(n: Net, x: Any) -> Any:
        y = n.op(relax.op.matmul(q(n, x, QParams(1e-4, 3)), w(n, values, scales * 1e-3, 1)))
        return n.op(relax.op.add(y, g.constant(bias)))

    made, report = LowerInt8()(net(write, (2, 4)))
    assert report.notes == ("the bias 'add_0' is added in float: it would overflow int32",)
    x = np.zeros((2, 4), np.float32)
    np.testing.assert_allclose(run(made, x), np.stack([bias, bias]), rtol=1e-6)


def test_a_float_convolution_behind_a_pair_is_reported() -> None:
    values, scales = weights((1, 1, 4, 2), 3)

    def write(n: Net, x: Any) -> Any:
        weight = w(n, values, scales, 3)
        return n.op(relax.op.nn.conv2d(x, weight, data_layout="NHWC", kernel_layout="HWIO"))

    made, report = LowerInt8()(net(write))
    assert [(s.op, s.name) for s in report.skipped] == [("relax.nn.conv2d", "conv2d_0")]
    assert "computed in float32" in report.skipped[0].reason
    assert ops_of(made) == ["relax.nn.conv2d"]


def test_sums_that_could_overflow_stay_in_float_and_say_so() -> None:
    values = np.full((70000, 1), 127, np.int8)
    scales = np.array([0.01], np.float32)

    def write(n: Net, x: Any) -> Any:
        return n.op(relax.op.matmul(q(n, x, QParams(1.0, 0)), w(n, values, scales, 1)))

    _, report = LowerInt8()(net(write, (1, 70000)))
    assert report.notes == ("'matmul_0' stays in float: its sums could overflow int32",)
    assert [s.name for s in report.skipped] == ["matmul_0"]


def test_relu_after_clip_narrows_the_bounds() -> None:
    def write(n: Net, x: Any) -> Any:
        y = n.op(relax.op.clip(quantized_conv(n, x), -1.0, 2.0))
        return q(n, n.relu(y), OUT)

    agree_within_a_step(net(write), 1)
