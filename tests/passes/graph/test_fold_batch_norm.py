from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from lepton_tvm.ir.graph import Expr, const_array, constant
from lepton_tvm.passes.graph.fold_batch_norm import FoldBatchNorm
from lepton_tvm.passes.graph.linear_ops import per_channel
from tests.support.graphs import (
    assert_close,
    check_pass,
    count,
    f32,
    graph,
    named,
    noise,
    run,
    skipped,
)

op = relax.op


def channels(*values: float) -> Expr:
    return constant(f32(values).reshape(1, -1, 1, 1))


def emit(expr: Expr) -> Expr:
    return relax.BlockBuilder.current().emit(expr)


def normalised(x: Expr, scale: Expr, shift: Expr) -> Expr:
    return op.add(op.multiply(x, scale), shift)


LINEAR: dict[str, tuple[Callable[[Expr], Expr], tuple[int, ...], tuple[int, ...]]] = {
    # name: (op, input shape, shape of a per-channel constant of its 6 output channels)
    "conv": (lambda x: op.nn.conv2d(x, noise(6, 4, 3, 3), padding=1), (2, 4, 5, 5), (1, 6, 1, 1)),
    "depthwise": (
        lambda x: op.nn.conv2d(x, noise(6, 1, 3, 3), groups=6),
        (1, 6, 5, 5),
        (1, 6, 1, 1),
    ),
    "grouped": (lambda x: op.nn.conv2d(x, noise(6, 2, 3, 3), groups=3), (1, 6, 5, 5), (1, 6, 1, 1)),
    "NHWC": (
        lambda x: op.nn.conv2d(
            x, noise(3, 3, 4, 6), data_layout="NHWC", kernel_layout="HWIO", out_layout="NHWC"
        ),
        (1, 5, 5, 4),
        (1, 1, 1, 6),
    ),
    "transposed": (
        lambda x: op.nn.conv2d_transpose(x, noise(4, 6, 3, 3), strides=2),
        (1, 4, 5, 5),
        (1, 6, 1, 1),
    ),
    "grouped transposed": (
        lambda x: op.nn.conv2d_transpose(x, noise(4, 3, 3, 3), groups=2),
        (1, 4, 5, 5),
        (1, 6, 1, 1),
    ),
    "matmul": (lambda x: op.matmul(x, noise(4, 6)), (3, 4), (6,)),
    "batched matmul": (lambda x: op.matmul(x, noise(4, 6)), (2, 3, 4), (6,)),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", LINEAR)
def test_scale_and_shift_fold_into_what_is_before(kind: str, bias: bool) -> None:
    linear, shape, const = LINEAR[kind]

    def body(x: Expr) -> Expr:
        made = linear(x)
        if bias:
            made = op.add(made, noise(*const, seed=1))
        return op.nn.relu(normalised(made, noise(*const, seed=2), noise(*const, seed=3)))

    before = graph(body, x=shape)
    after, report = check_pass(FoldBatchNorm(), before)
    assert (count(after, "multiply"), count(after, "add")) == (0, 1)
    assert report.skipped == ()
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    assert_close(run(after, x), run(before, x), terms=64)


@pytest.mark.parametrize("kind", ["conv", "depthwise", "grouped", "NHWC", "matmul"])
def test_a_scale_before_an_op_folds_into_it(kind: str) -> None:
    linear, shape, _ = LINEAR[kind]
    const = [1] * len(shape)
    const[-1 if kind in ("NHWC", "matmul") else 1] = 6 if shape[1] == 6 else 4
    before = graph(lambda x: linear(op.multiply(op.nn.relu(x), noise(*const, seed=2))), x=shape)
    after, _ = check_pass(FoldBatchNorm(), before)
    assert count(after, "multiply") == 0
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    assert_close(run(after, x), run(before, x), terms=64)


@pytest.mark.parametrize("kind", ["depthwise", "grouped", "NHWC", "matmul"])
def test_scale_and_shift_before_an_unpadded_op_fold_into_it(kind: str) -> None:
    linear, shape, const_out = LINEAR[kind]
    const = [1] * len(shape)
    const[-1 if kind in ("NHWC", "matmul") else 1] = 6 if shape[1] == 6 else 4
    before = graph(
        lambda x: op.add(
            linear(normalised(op.nn.relu(x), noise(*const, seed=2), noise(*const, seed=3))),
            noise(*const_out, seed=5),
        ),
        x=shape,
    )
    after, _ = check_pass(FoldBatchNorm(), before)
    assert (count(after, "multiply"), count(after, "add")) == (0, 1)
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    assert_close(run(after, x), run(before, x), terms=64)


def test_exact_numbers_and_names() -> None:
    weight = f32([[1, 2], [3, 4]]).reshape(2, 2, 1, 1)

    def body(x: Expr) -> Expr:
        biased = op.add(op.nn.conv2d(x, constant(weight)), channels(10, 20))
        return normalised(biased, channels(2, -1), channels(0.5, 0.25))

    def expected(x: Expr) -> Expr:
        folded = f32([[2, 4], [-3, -4]]).reshape(2, 2, 1, 1)
        return op.add(op.nn.conv2d(x, constant(folded)), channels(20.5, -19.75))

    shape = (1, 2, 3, 3)
    check_pass(FoldBatchNorm(), graph(body, x=shape), graph(expected, x=shape))


def test_a_scalar_bias_becomes_one_per_channel() -> None:
    def body(x: Expr) -> Expr:
        return op.add(op.nn.conv2d(x, noise(3, 4, 1, 1)), constant(np.float32(2)))

    after, _ = check_pass(FoldBatchNorm(), graph(body, x=(1, 4, 2, 2)))
    bias = const_array(named(after, "add")[0].value.args[1])
    assert bias is not None
    np.testing.assert_array_equal(bias, np.full((1, 3, 1, 1), 2, np.float32))


def refusal(body: Callable[..., Any], *reasons: str, **inputs: Any) -> None:
    before = graph(body, **(inputs or {"x": (1, 4, 5, 5)}))
    after, report = check_pass(FoldBatchNorm(), before)
    assert count(after, "multiply") >= 1
    assert len(report.skipped) == len(reasons)
    for got, want in zip(skipped(report), reasons, strict=True):
        assert want in got


FOUR = (1.0, 2.0, 3.0, 4.0)


def test_not_before_a_padded_convolution() -> None:
    def body(x: Expr) -> Expr:
        x = normalised(op.nn.relu(x), channels(*FOUR), channels(*FOUR))
        return op.nn.conv2d(x, noise(4, 4, 3, 3), padding=1)

    refusal(body, "(relax.nn.relu), and 'gv' after it pads with zeros, which must not be shifted")


def test_not_when_the_convolution_is_read_elsewhere() -> None:
    def body(x: Expr) -> list[Expr]:
        y = emit(op.nn.conv2d(x, noise(4, 4, 3, 3)))
        return [op.nn.relu(op.multiply(y, channels(*FOUR))), op.abs(y)]

    refusal(body, "'lv' is read in 2 places")


def test_not_when_the_convolution_is_an_output() -> None:
    def body(x: Expr) -> list[Expr]:
        y = emit(op.nn.conv2d(x, noise(4, 4, 3, 3)))
        return [y, op.nn.relu(op.multiply(y, channels(*FOUR)))]

    refusal(body, "is read in 2 places")


def test_not_into_a_weight_that_is_computed() -> None:
    def body(x: Expr, w: Expr) -> Expr:
        return op.nn.relu(op.multiply(op.nn.conv2d(x, w), channels(*FOUR)))

    refusal(body, "is not constant; fold parameters first", x=(1, 4, 5, 5), w=(4, 4, 3, 3))


def test_not_along_another_axis() -> None:
    def body(x: Expr) -> Expr:
        rows = constant(f32(FOUR[:3]).reshape(1, 1, 3, 1))
        return op.nn.relu(op.multiply(op.nn.conv2d(x, noise(4, 4, 3, 3)), rows))

    refusal(body, "the scale does not run along the output channels")


def test_not_on_the_input() -> None:
    refusal(
        lambda x: op.nn.relu(op.multiply(x, channels(*FOUR))),
        "it follows 'x' (a model input), and 'gv' after it cannot take a scale",
    )


def test_not_a_batch_norm_of_computed_statistics() -> None:
    def body(x: Expr, m: Expr) -> list[Expr]:
        c = constant(np.ones(4, np.float32))
        made = emit(op.nn.batch_norm(x, c, c, m, c, axis=1, training=False))
        return [emit(relax.TupleGetItem(made, 0))]

    before = graph(body, x=(1, 4, 5, 5), m=(4,))
    _, report = check_pass(FoldBatchNorm(), before)
    assert skipped(report) == ["its statistics are not constant; fold parameters first"]


def test_the_bias_between_two_convolutions_stays_where_it_is() -> None:
    def body(x: Expr) -> Expr:
        first = op.add(op.nn.conv2d(x, noise(4, 4, 1, 1)), channels(*FOUR))
        return op.nn.conv2d(first, noise(3, 4, 1, 1, seed=1))

    mod = graph(body, x=(1, 4, 5, 5))
    check_pass(FoldBatchNorm(), mod, mod)


@settings(max_examples=8, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 3]),
    per_group_in=st.integers(1, 3),
    per_group_out=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_any_grouping(groups: int, per_group_in: int, per_group_out: int, seed: int) -> None:
    c, k = groups * per_group_in, groups * per_group_out
    before = graph(
        lambda x: normalised(
            op.nn.conv2d(
                normalised(
                    op.abs(x), noise(1, c, 1, 1, seed=seed), noise(1, c, 1, 1, seed=seed + 1)
                ),
                noise(k, per_group_in, 2, 2, seed=seed + 2),
                groups=groups,
            ),
            noise(1, k, 1, 1, seed=seed + 3),
            noise(1, k, 1, 1, seed=seed + 4),
        ),
        x=(1, c, 3, 3),
    )
    after, _ = FoldBatchNorm()(before)
    assert (count(after, "multiply"), count(after, "add")) == (0, 1)
    x = np.random.default_rng(seed).normal(size=(1, c, 3, 3)).astype(np.float32)
    assert_close(run(after, x), run(before, x), terms=64)


@given(st.lists(st.sampled_from([1, 2, 3]), max_size=4), st.integers(0, 2))
def test_per_channel_never_enlarges(dims: list[int], axis: int) -> None:
    shape = (2, 3, 1)
    array = np.arange(int(np.prod(dims)), dtype=np.float32).reshape(dims)
    vector = per_channel(array, shape, axis)
    try:
        grows = np.broadcast_shapes(array.shape, shape) != shape
    except ValueError:
        grows = True
    if grows:
        assert vector is None
    elif vector is not None:
        wide = vector.reshape([-1 if i == axis else 1 for i in range(3)])
        np.testing.assert_array_equal(np.broadcast_to(array, shape), np.broadcast_to(wide, shape))
