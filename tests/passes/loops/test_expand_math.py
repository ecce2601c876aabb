"""The polynomials for exp, sigmoid, tanh and erf against float64, in vectors and in scalars."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from lepton_tvm.compiler.build_cpu import build_kernels
from lepton_tvm.ir.graph import Array
from lepton_tvm.targets import parse_target

EXACT: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "erf": lambda x: np.array([math.erf(v) for v in x]),
}


def answer(name: str, x: Array, lanes: int) -> tuple[Array, str]:
    function = getattr(tirx, name)
    data = te.placeholder(x.shape, "float32", "x")
    out = te.compute(x.shape, lambda i: function(data[i]), name="out")
    sch = tvm.s_tir.Schedule(tvm.IRModule({"main": te.create_prim_func([data, out])}))
    _, inner = sch.split(sch.get_loops(sch.get_sblock("out"))[0], [None, lanes])
    if lanes > 1:
        sch.vectorize(inner)
    built = build_kernels(sch.mod, parse_target("native"))
    result: Any = tvm.runtime.empty(x.shape, "float32")
    built["main"](tvm.runtime.tensor(x), result)
    return result.numpy(), built.mod.inspect_source("asm")


@pytest.mark.parametrize("lanes", [1, 16])
@pytest.mark.parametrize("name", list(EXACT))
def test_errors_are_small_everywhere(name: str, lanes: int) -> None:
    x = np.concatenate([np.linspace(-87, 87, 4001), np.linspace(-5, 5, 4001)])[:8000]
    x = x.astype("float32")
    got, _ = answer(name, x, lanes)
    want = EXACT[name](x.astype(np.float64))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=4e-7)


@pytest.mark.parametrize("name", list(EXACT))
def test_beyond_the_limits(name: str) -> None:
    x = np.array([-np.inf, -1e30, -100, 0, -0.0, 100, 1e30, np.inf] * 2, "float32")
    got, _ = answer(name, x, 16)
    with np.errstate(over="ignore"):
        want = EXACT[name](x.astype(np.float64)).astype("float32")
    finite = np.isfinite(want)
    np.testing.assert_allclose(got[finite], want[finite], atol=2e-6)
    assert np.all(got[~finite] > 1e29)


@pytest.mark.parametrize("name", list(EXACT))
def test_no_call_of_the_mathematics_library_is_left(name: str) -> None:
    _, assembly = answer(name, np.zeros(64, "float32"), 16)
    assert "zmm" in assembly or "ymm" in assembly or "xmm" in assembly
    assert not any(f"call{rest}" in assembly for rest in (f"q\t{name}f", f"\t{name}f"))
