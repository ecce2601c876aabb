"""The end of integer epilogues on ARM: what becomes saturating, and what must stay as it is.

Numbers are checked on the emulated processors (`tests/arm/cases.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tvm
from tvm import tirx
from tvm.script import tirx as T

from lepton_tvm.passes.loops.saturating_narrow import saturating_narrow
from lepton_tvm.targets import parse_target

Value = Callable[[Any], Any]


def _function(value: Value, lanes: int, target: str) -> tvm.IRModule:
    @T.prim_func(s_tir=True)
    def func(x: T.handle, y: T.handle) -> None:
        X = T.match_buffer(x, (lanes,), "float32")
        Y = T.match_buffer(y, (lanes,), "uint8")
        Y[T.ramp(0, 1, lanes)] = value(X.vload([0], f"float32x{lanes}"))

    return tvm.IRModule({"main": func.with_attr("target", parse_target(target).tvm)})


def _quantized(low: float, high: float, zero: int, lanes: int = 16) -> Value:
    def value(x: Any) -> Any:
        limits = [T.broadcast(tirx.const(v, "float32"), lanes) for v in (high, low)]
        steps = T.max(T.min(tirx.nearbyint(x), limits[0]), limits[1])
        shifted = T.cast(steps, f"int32x{lanes}") + T.broadcast(T.int32(zero), lanes)
        return T.cast(shifted, f"uint8x{lanes}")

    return value


@pytest.mark.parametrize(
    ("value", "lanes", "target", "changes"),
    [
        (_quantized(0.0, 255.0, 0), 16, "arm:neon", True),
        (_quantized(-7.0, 20.0, 7), 16, "arm:cortex-a76", True),
        (_quantized(-7.0, 248.0, 7, 4), 4, "arm:neon", True),
        (_quantized(0.0, 255.0, 0), 16, "x86:avx2", False),
        (_quantized(0.0, 255.0, 7), 16, "arm:neon", False),  # wraps beyond 255
        (_quantized(-8.0, 20.0, 7), 16, "arm:neon", False),  # and below 0
        (_quantized(0.5, 255.0, 0), 16, "arm:neon", False),  # no whole number
        (_quantized(-7.0, 20.0, 7, 6), 6, "arm:neon", False),  # not whole registers
        (lambda x: T.cast(x, "uint8x16"), 16, "arm:neon", False),
    ],
)
def test_only_what_fits_bytes_saturates(
    value: Value, lanes: int, target: str, changes: bool
) -> None:
    module = _function(value, lanes, target)
    before = module.clone()
    made = saturating_narrow(module)
    tvm.ir.assert_structural_equal(module, before)
    text = made.script()
    assert ("fcvtns" in text) == changes
    assert ("nearbyint" in text) == (not changes and "nearbyint" in before.script())
    tvm.ir.assert_structural_equal(saturating_narrow(made), made)
