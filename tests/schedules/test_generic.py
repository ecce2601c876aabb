"""Elementwise functions and reductions against NumPy, over shapes that fit no vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, topi

from lepton_tvm.compiler.build_cpu import build_kernels
from lepton_tvm.ir.graph import Array
from lepton_tvm.schedules.base import Defaults
from lepton_tvm.schedules.x86 import ELEMENTWISE, REDUCTION
from lepton_tvm.targets import parse_target

Function = Callable[[te.Tensor], te.Tensor]


def answer(rule: Any, function: Function, x: Array) -> Array:
    target = parse_target("native")
    data = te.placeholder(x.shape, str(x.dtype), "x")
    out = function(data)
    sch = rule.apply(te.create_prim_func([data, out]), target, Defaults())
    assert sch is not None
    built = build_kernels(sch.mod, target)
    shape = tuple(int(d) for d in out.shape)
    result: Any = tvm.runtime.empty(shape, str(out.dtype).removeprefix("T."))
    built["main"](tvm.runtime.tensor(x), result)
    made: Array = result.numpy()
    return made


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 64), (1, 17, 9, 48), (2, 40, 40, 32)])
def test_elementwise_chain(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    got = answer(ELEMENTWISE, lambda t: topi.clip(topi.add(t, t), 0.0, 1.5), x)
    np.testing.assert_array_equal(got, np.clip(x + x, 0, 1.5))


@pytest.mark.parametrize("axes", [(0, 2, 3, 1), (0, 3, 1, 2), (3, 2, 1, 0)])
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (2, 5, 7, 11), (1, 16, 4, 48)])
def test_layout_change(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).standard_normal(shape).astype("float32")
    got = answer(ELEMENTWISE, lambda t: topi.transpose(t, axes), x)
    np.testing.assert_array_equal(got, x.transpose(axes))


@pytest.mark.parametrize("shape", [(1, 7, 7, 64), (2, 5, 3, 10), (1, 1, 1, 1280), (1, 9, 9, 3)])
def test_spatial_mean_and_maximum(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(2).standard_normal(shape).astype("float32")
    got = answer(REDUCTION, lambda t: topi.sum(t, [1, 2], True), x)
    np.testing.assert_allclose(got, x.astype(np.float64).sum((1, 2), keepdims=True), atol=1e-4)
    got = answer(REDUCTION, lambda t: topi.max(t, [1, 2], True), x)
    np.testing.assert_array_equal(got, x.max((1, 2), keepdims=True))


@pytest.mark.parametrize("columns", [1, 10, 64, 197, 384, 1000])
def test_reductions_over_the_last_axis(columns: int) -> None:
    x = np.random.default_rng(3).standard_normal((6, columns)).astype("float32")
    got = answer(REDUCTION, lambda t: topi.sum(t, -1), x)
    np.testing.assert_allclose(got, x.astype(np.float64).sum(-1), atol=1e-4)
    got = answer(REDUCTION, lambda t: topi.nn.fast_softmax(t, -1), x)
    shifted = np.exp(x - x.max(-1, keepdims=True), dtype=np.float64)
    np.testing.assert_allclose(got, shifted / shifted.sum(-1, keepdims=True), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize("channels", [3, 16, 24, 40])
def test_max_pool(kernel: int, stride: int, pad: int, channels: int) -> None:
    x = np.random.default_rng(4).integers(0, 255, (1, 9, 11, channels)).astype("uint8")

    def pool(t: te.Tensor) -> te.Tensor:
        return topi.nn.pool2d(
            t, [kernel] * 2, [stride] * 2, [1, 1], [pad] * 4, "max", layout="NHWC"
        )

    got = answer(REDUCTION, pool, x)
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (1, 2))
    np.testing.assert_array_equal(got, windows[:, ::stride, ::stride].max((-1, -2)))


@pytest.mark.parametrize("shape", [(2, 5, 7, 9), (1, 16, 32, 16), (4, 40, 15, 40)])
def test_product_of_two_activations(shape: tuple[int, ...]) -> None:
    batch, rows, depth, columns = shape
    rng = np.random.default_rng(5)
    joined = rng.standard_normal((batch, rows * depth + depth * columns)).astype("float32")

    def product(t: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, depth), "k")
        return te.compute(
            (batch, rows, columns),
            lambda b, i, j: te.sum(
                t[b, i * depth + k] * t[b, rows * depth + k * columns + j], axis=k
            ),
        )

    got = answer(REDUCTION, product, joined)
    a = joined[:, : rows * depth].reshape(batch, rows, depth).astype(np.float64)
    b = joined[:, rows * depth :].reshape(batch, depth, columns).astype(np.float64)
    np.testing.assert_allclose(got, a @ b, atol=1e-4)


def test_rules_answer_none_for_what_is_not_theirs() -> None:
    target = parse_target("native")
    data = te.placeholder((4, 8), "float32", "x")
    chain = te.create_prim_func([data, topi.nn.relu(data)])
    total = te.create_prim_func([data, topi.sum(data, -1)])
    assert REDUCTION.apply(chain, target, Defaults()) is None
    assert ELEMENTWISE.apply(total, target, Defaults()) is None
