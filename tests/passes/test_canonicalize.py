from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import relax, topi

from lepton_tvm.ir.graph import Expr, constant
from lepton_tvm.passes.canonicalize import Canonicalize
from tests.passes.check import (
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
PICTURE = (1, 4, 6, 5)
C = f32([1.5, -2.0, 0.5, 3.0]).reshape(1, 4, 1, 1)


def emitted(function: Callable[..., Any], *args: Any) -> Callable[[Expr], Expr]:
    """The importer's way to write an op: a PrimFunc, called."""
    return lambda x: relax.BlockBuilder.current().emit_te(function, x, *args)


def chained(*steps: Callable[[Expr], Expr]) -> Callable[[Expr], Expr]:
    def body(x: Expr) -> Expr:
        for step in steps:
            x = relax.BlockBuilder.current().normalize(step(x))
        return x

    return body


def conv(x: Expr, **kwargs: Any) -> Expr:
    return op.nn.conv2d(x, noise(3, 4, 3, 3), **kwargs)


CASES: dict[str, tuple[Callable[[Expr], Expr], Callable[[Expr], Expr]]] = {
    "relu6 as two PrimFuncs": (
        chained(emitted(topi.maximum, 0.0), emitted(topi.minimum, 6.0)),
        lambda x: op.clip(x, 0.0, 6.0),
    ),
    "the order of bounds does not matter": (
        chained(emitted(topi.minimum, 6.0), emitted(topi.maximum, 0.0)),
        lambda x: op.clip(x, 0.0, 6.0),
    ),
    "maximum with 0 is relu": (emitted(topi.maximum, 0.0), op.nn.relu),
    "a bound given as constant": (
        lambda x: op.maximum(constant(np.float32(0)), x),
        op.nn.relu,
    ),
    "clip of relu": (lambda x: op.clip(op.nn.relu(x), -1.0, 3.0), lambda x: op.clip(x, 0.0, 3.0)),
    "relu twice": (lambda x: op.nn.relu(op.nn.relu(x)), op.nn.relu),
    "relu6": (op.nn.relu6, lambda x: op.clip(x, 0.0, 6.0)),
    "intervals that do not meet": (
        lambda x: op.clip(op.clip(x, 0.0, 1.0), 4.0, 5.0),
        lambda x: op.clip(x, 4.0, 4.0),
    ),
    "one-sided bounds stay one-sided": (
        emitted(topi.minimum, 2.0),
        lambda x: op.minimum(x, constant(np.float32(2))),
    ),
    "zero pad goes into the convolution": (
        chained(emitted(topi.nn.pad, [0, 0, 1, 2], [0, 0, 3, 0], 0.0), conv),
        lambda x: conv(x, padding=[1, 2, 3, 0]),
    ),
    "pad with a value stays": (
        chained(emitted(topi.nn.pad, [0, 0, 1, 2], [0, 0, 3, 0], 0.5), conv),
        lambda x: conv(op.nn.pad(x, [0, 0, 0, 0, 1, 3, 2, 0], "constant", 0.5)),
    ),
    "reflect pad": (
        emitted(topi.nn.mirror_pad, [0, 0, 2, 1], [0, 0, 0, 3], "REFLECT"),
        lambda x: op.nn.pad(x, [0, 0, 0, 0, 2, 0, 1, 3], "reflect", 0.0),
    ),
    "replicate pad": (
        emitted(topi.nn.replicate_pad, [0, 0, 2, 1], [0, 0, 0, 3]),
        lambda x: op.nn.pad(x, [0, 0, 0, 0, 2, 0, 1, 3], "replicate", 0.0),
    ),
    "pad of nothing": (lambda x: op.nn.pad(op.exp(x), [0] * 8), op.exp),
    "bias as a reshaped constant": (
        lambda x: op.add(conv(x), op.reshape(noise(3), (1, 3, 1, 1))),
        lambda x: op.add(conv(x), constant(_array(noise(3)).reshape(1, 3, 1, 1))),
    ),
    "constants to the right": (
        lambda x: op.multiply(constant(C), op.add(constant(C), x)),
        lambda x: op.multiply(op.add(x, constant(C)), constant(C)),
    ),
    "constants of lower rank": (
        lambda x: op.multiply(x, constant(C[0])),
        lambda x: op.multiply(x, constant(C)),
    ),
    "one-element constants": (
        lambda x: op.multiply(x, constant(np.full((1, 1), 2, np.float32))),
        lambda x: op.multiply(x, constant(np.float32(2))),
    ),
    "subtract": (
        lambda x: op.subtract(x, constant(C)),
        lambda x: op.add(x, constant(-C)),
    ),
    "divide": (
        lambda x: op.divide(x, constant(C)),
        lambda x: op.multiply(x, constant((1 / C.astype(np.float64)).astype(np.float32))),
    ),
    "square": (
        lambda x: op.power(op.exp(x), constant(np.float32(2))),
        lambda x: _square(relax.BlockBuilder.current().emit(op.exp(x))),
    ),
    "square root": (lambda x: op.power(x, constant(np.float32(0.5))), op.sqrt),
    "neutral elements": (
        lambda x: op.exp(
            op.multiply(op.add(x, constant(np.float32(0))), constant(np.ones_like(C)))
        ),
        op.exp,
    ),
    "constants merge": (
        lambda x: op.add(op.add(x, constant(C)), constant(np.float32(1))),
        lambda x: op.add(x, constant(C + np.float32(1))),
    ),
    "squeeze and unsqueeze": (
        lambda x: op.exp(op.squeeze(op.expand_dims(x, [2]), [2])),
        op.exp,
    ),
    "flatten": (
        lambda x: op.flatten(x),
        lambda x: op.reshape(x, (120,)),
    ),
    "permutes meet": (
        lambda x: op.permute_dims(op.permute_dims(op.exp(x), [0, 2, 3, 1]), [0, 3, 1, 2]),
        op.exp,
    ),
    "permute of unit dims": (
        lambda x: op.permute_dims(op.mean(x, [2, 3], True), [0, 2, 3, 1]),
        lambda x: op.reshape(op.mean(x, [2, 3], True), (1, 1, 1, 4)),
    ),
    "reshape of unit dims moves above a permute": (
        lambda x: op.permute_dims(
            op.reshape(op.permute_dims(op.mean(x, [2], True), [0, 3, 1, 2]), (1, 5, 4)), [0, 2, 1]
        ),
        lambda x: op.reshape(op.mean(x, [2], True), (1, 4, 5)),
    ),
    "same cast, broadcast, slice, concat": (
        lambda x: op.concat(
            [
                op.strided_slice(
                    op.broadcast_to(op.astype(op.exp(x), "float32"), PICTURE), [2], [0], [6], [1]
                )
            ],
            1,
        ),
        op.exp,
    ),
    "average pool over everything": (
        lambda x: op.nn.avg_pool2d(x, (6, 5)),
        lambda x: op.mean(x, [2, 3], True),
    ),
    "adaptive average pool to one": (
        lambda x: op.nn.adaptive_avg_pool2d(x, 1),
        lambda x: op.mean(x, [2, 3], True),
    ),
    "reductions keep dims": (
        lambda x: op.max(x, [2, 3]),
        lambda x: op.reshape(op.max(x, [2, 3], True), (1, 4)),
    ),
    "shape as a tensor": (
        lambda x: op.multiply(
            x,
            op.astype(
                op.take(op.shape_to_tensor(op.shape_of(x)), relax.const(3, "int64"), 0), "float32"
            ),
        ),
        lambda x: op.multiply(x, constant(np.float32(5))),
    ),
    "take of one row": (
        lambda x: op.take(x, relax.const(4, "int64"), 2),
        lambda x: op.reshape(op.strided_slice(x, [2], [4], [5], [1]), (1, 4, 5)),
    ),
    "where with one answer": (
        lambda x: op.exp(op.where(constant(np.ones((), bool)), x, op.abs(x))),
        op.exp,
    ),
    "dropout": (lambda x: relax.TupleGetItem(_emit(op.nn.dropout(op.exp(x))), 0), op.exp),
}


def _emit(expr: Expr) -> Expr:
    return relax.BlockBuilder.current().emit(expr)


def _array(expr: Expr) -> Any:
    return expr.value.numpy()


def _square(x: Expr) -> Expr:
    return op.multiply(x, x)


@pytest.mark.parametrize("case", CASES)
def test_before_and_expected(case: str) -> None:
    before, expected = CASES[case]
    check_pass(Canonicalize(), graph(before, x=PICTURE), graph(expected, x=PICTURE))


@pytest.mark.parametrize(
    "case",
    [
        "relu6 as two PrimFuncs",
        "the order of bounds does not matter",
        "reflect pad",
        "replicate pad",
        "zero pad goes into the convolution",
        "pad with a value stays",
        "divide",
        "reshape of unit dims moves above a permute",
        "take of one row",
    ],
)
def test_numbers_stay(case: str) -> None:
    before = graph(CASES[case][0], x=PICTURE)
    after, _ = Canonicalize()(before)
    x = 4 * np.random.default_rng(1).normal(size=PICTURE).astype(np.float32)
    assert_close(run(after, x), run(before, x), terms=3 * 3 * 4)


def test_nan_bounds_of_the_importer_fold_away() -> None:
    def body(x: Expr) -> Expr:
        low = relax.const(0.0, "float32")
        builder = relax.BlockBuilder.current()
        bound = builder.emit(op.where(op.isnan(low), relax.const(-np.inf, "float32"), low))
        return builder.emit_te(topi.maximum, x, bound)

    check_pass(Canonicalize(), graph(body, x=PICTURE), graph(op.nn.relu, x=PICTURE))


def test_batch_norm_becomes_multiply_and_add() -> None:
    rng = np.random.default_rng(0)
    gamma, beta, mean = (rng.normal(size=4).astype(np.float32) for _ in range(3))
    var = rng.uniform(0.5, 2, size=4).astype(np.float32)

    def body(x: Expr) -> Expr:
        args = [constant(a) for a in (gamma, beta, mean, var)]
        made = op.nn.batch_norm(x, *args, axis=1, epsilon=1e-3, training=False)
        return relax.TupleGetItem(_emit(made), 0)

    after, _ = check_pass(Canonicalize(), graph(body, x=PICTURE))
    assert (count(after, "multiply"), count(after, "add")) == (1, 1)
    x = rng.normal(size=PICTURE).astype(np.float32)
    shape = (1, 4, 1, 1)
    scale = gamma.astype(np.float64) / np.sqrt(var.astype(np.float64) + 1e-3)
    want = x * scale.reshape(shape) + (beta - mean * scale).reshape(shape)
    assert_close(run(after, x), [want], terms=4)


def test_a_large_broadcast_of_a_constant_is_not_stored() -> None:
    big = (64, 1024, 512)  # 128 MB
    before = graph(lambda x: op.add(x, op.broadcast_to(constant(f32([[[1.0]]])), big)), x=big)
    after, _ = Canonicalize()(before)
    assert count(after, "broadcast_to") == 1


def test_a_shared_pad_is_folded_into_each_convolution() -> None:
    def body(x: Expr) -> list[Expr]:
        padded = _emit(op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1]))
        return [conv(padded), op.nn.conv2d(padded, noise(2, 4, 3, 3, seed=1))]

    after, _ = check_pass(Canonicalize(), graph(body, x=PICTURE))
    assert count(after, "nn.pad") == 0
    for binding in named(after, "nn.conv2d"):
        assert [int(p) for p in binding.value.attrs.padding] == [1, 1, 1, 1]


def test_channel_padding_is_not_folded_into_a_convolution() -> None:
    def body(x: Expr) -> Expr:
        return op.nn.conv2d(op.nn.pad(x, [0, 0, 0, 1, 1, 1, 1, 1]), noise(2, 5, 3, 3))

    after, _ = check_pass(Canonicalize(), graph(body, x=PICTURE))
    assert count(after, "nn.pad") == 1


def test_integer_arithmetic_keeps_its_meaning() -> None:
    def body(x: Expr) -> Expr:
        three = relax.const(3, "int32")
        return op.subtract(op.divide(x, three), three)

    after, _ = check_pass(Canonicalize(), graph(body, x=((4,), "int32")))
    assert (count(after, "divide"), count(after, "subtract")) == (1, 1)


def test_unknown_primfuncs_are_kept_and_reported() -> None:
    before = graph(emitted(topi.flip, 1), x=PICTURE)
    after, report = check_pass(Canonicalize(), before)
    assert [s.op for s in report.skipped] == ["call_tir:flip"]
    assert skipped(report) == ["the importer emitted loops; no Relax op is known"]
    x = np.random.default_rng(0).normal(size=PICTURE).astype(np.float32)
    np.testing.assert_array_equal(run(after, x)[0], x[:, ::-1])


def test_a_primfunc_of_constants_is_evaluated() -> None:
    def body(x: Expr) -> Expr:
        builder = relax.BlockBuilder.current()
        return op.add(x, builder.emit_te(topi.flip, constant(C), 1))

    want = graph(lambda x: op.add(x, constant(np.ascontiguousarray(C[:, ::-1]))), x=PICTURE)
    check_pass(Canonicalize(), graph(body, x=PICTURE), want)
