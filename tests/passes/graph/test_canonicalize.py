"""Canonical form: every idea is written in one way, and means what it meant."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax, topi
from tvm.relax import op

from lepton_tvm.ir.graph import Expr, constant
from lepton_tvm.passes.graph.canonicalize.canonicalize import Canonicalize
from tests.passes.graph.canonical_cases import CASES, PICTURE, C, conv, emit, emitted
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
        return relax.TupleGetItem(emit(made), 0)

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
        padded = emit(op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1]))
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
