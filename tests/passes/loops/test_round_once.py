"""Rounding by the conversion itself: what becomes one instruction, and what must stay two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import te, tirx

from lepton_tvm.compiler.build_cpu import build_kernels
from lepton_tvm.ir.graph import Array
from lepton_tvm.passes.loops.round_once import round_once
from lepton_tvm.targets import parse_target

Value = Callable[[Any], Any]


def _float(value: float) -> Any:
    return tirx.const(value, "float32")


def _function(value: Value) -> tvm.IRModule:
    x = te.placeholder((16,), "float32", "x")
    out = te.compute((16,), lambda i: value(x[i]), name="out")
    return tvm.IRModule({"main": te.create_prim_func([x, out])})


def _clipped(low: float, high: float) -> Value:
    return lambda x: tirx.max(tirx.min(tirx.nearbyint(x), _float(high)), _float(low)).astype(
        "int32"
    )


@pytest.mark.parametrize(
    ("value", "changes"),
    [
        (_clipped(0.0, 255.0), True),
        (_clipped(-7.0, 12.0), True),
        (lambda x: tirx.min(tirx.nearbyint(x), _float(9.0)).astype("int32"), True),
        (_clipped(0.0, 6.5), False),
        (lambda x: tirx.nearbyint(x).astype("int32"), False),
        (lambda x: tirx.max(x, _float(0.0)).astype("int32"), False),
        (lambda x: tirx.max(tirx.nearbyint(x), x).astype("int32"), False),
    ],
)
def test_only_what_is_rounded_between_whole_bounds_changes(value: Value, changes: bool) -> None:
    module = _function(value)
    before = module.clone()
    made = round_once(module)
    tvm.ir.assert_structural_equal(module, before)
    assert ("nearbyint" not in made.script()) == (changes or "nearbyint" not in before.script())
    assert tvm_ffi.structural_equal(made, before) != changes
    tvm.ir.assert_structural_equal(round_once(made), made)


@pytest.mark.parametrize("isa", ["sse", "avx2", "native"])
def test_halves_go_to_even_and_far_values_to_the_bounds(isa: str) -> None:
    target = parse_target(isa if isa == "native" else f"x86:{isa}")
    x: Array = np.array(
        [0.5, 1.5, 2.5, -0.5, -1.5, 3.49, 3.51, 0.0, 254.5, 255.5, 1e10, -1e10, 3e38, -3e38, 7, 2],
        "float32",
    )
    module = _function(_clipped(-3.0, 255.0))
    built = build_kernels(module, target)
    out = tvm.runtime.empty((16,), "int32")
    built["main"](tvm.runtime.tensor(x), out)
    np.testing.assert_array_equal(out.numpy(), np.clip(np.rint(x), -3, 255).astype("int32"))
