"""Softmax, log-softmax and layer norm against NumPy over lengths that fit no register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te

from lepton_tvm.compiler.build_cpu import build_kernels
from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels import rows
from lepton_tvm.schedules.base import Defaults
from lepton_tvm.schedules.x86 import ROWS
from lepton_tvm.targets import ISAS, parse_target
from tests.support.kernels import needs

SHAPES = [(1, 2), (3, 7), (2, 3, 16), (5, 21), (4, 49), (2, 3, 50), (3, 197), (1, 384), (2, 1000)]


def answer(function: Callable[..., te.Tensor], isa: str, *inputs: Array) -> Array:
    needs(isa)
    target = parse_target(f"x86:{isa}")
    data = [te.placeholder(x.shape, "float32", f"x{i}") for i, x in enumerate(inputs)]
    out = function(*data)
    sch = ROWS.apply(te.create_prim_func([*data, out]), target, Defaults())
    assert sch is not None
    built = build_kernels(sch.mod, target)
    result: Any = tvm.runtime.empty(inputs[0].shape, "float32")
    built["main"](*[tvm.runtime.tensor(x) for x in inputs], result)
    made: Array = result.numpy()
    return made


def noise(shape: tuple[int, ...], scale: float = 1.0, offset: float = 0.0) -> Array:
    rng = np.random.default_rng(shape[-1])
    return (rng.standard_normal(shape) * scale + offset).astype("float32")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("isa", ["sse", "avx2", "vnni"])
def test_softmax(shape: tuple[int, ...], isa: str) -> None:
    x = noise(shape, 5.0, -200.0)
    powers = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    want = powers / powers.sum(-1, keepdims=True)
    np.testing.assert_allclose(answer(rows.softmax, isa, x), want, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(answer(rows.log_softmax, isa, x), np.log(want), rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("isa", list(ISAS))
def test_layer_norm(shape: tuple[int, ...], isa: str) -> None:
    # a mean that is large beside the deviations: mean(x^2) - mean^2 would be off by a tenth
    x = noise(shape, 0.1, 30.0)
    gamma, beta = noise(shape[-1:]), noise(shape[-1:], 2.0)
    exact = x.astype(np.float64)
    centred = exact - exact.mean(-1, keepdims=True)
    want = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gamma + beta
    got = answer(lambda a, g, b: rows.layer_norm(a, g, b, 1e-5), isa, x, gamma, beta)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-4)


def test_other_functions_are_left_to_other_rules() -> None:
    x = te.placeholder((3, 8), "float32", "x")
    func = te.create_prim_func([x, te.compute(x.shape, lambda *i: x[i] + 1, name="y")])
    assert ROWS.apply(func, parse_target("native"), Defaults()) is None
