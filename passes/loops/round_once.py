"""Rounding to integers in one instruction where rounding to float and converting took two."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

__all__ = ["round_once"]

_TO_INTEGER = "llvm.lrint"


@tvm.transform.module_pass(opt_level=0, name="lepton.round_once")
def round_once(mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
    """Convert floats that are rounded to whole numbers by the instruction that rounds by itself.

    Before: int32(max(min(nearbyint(x), high), low))     bounds are whole numbers
    After:  lrint(max(min(x, high), low))                halves to even in both

    Runs on lowered functions, scalars and vectors. Does not handle: rounded values without bounds
    (beyond int32 the two would differ) or with bounds that are not constants.
    """
    mod = mod.clone()
    for gvar, func in list(mod.functions.items()):
        if isinstance(func, tirx.PrimFunc):
            body = tvm_ffi.structural_map(func.body, (tirx.Cast, _converted), order="post")
            mod[gvar] = func.with_body(body)
    return mod


def _converted(cast: tirx.Cast) -> Any:
    kind = str(cast.ty.dtype) if hasattr(cast, "ty") else str(cast.dtype)
    value = cast.value
    if not kind.removeprefix("T.").startswith("int32") or not isinstance(
        value, tirx.Max | tirx.Min
    ):
        return cast
    inner = _unrounded(value)
    if inner is None:
        return cast
    return tirx.call_llvm_pure_intrin(kind.removeprefix("T."), _TO_INTEGER, inner)


def _unrounded(value: Any) -> Any:
    """`value` without its rounding, below any number of constant bounds; None where it has none."""
    if isinstance(value, tirx.Max | tirx.Min):
        if not _is_whole(value.b):
            return None
        inner = _unrounded(value.a)
        return None if inner is None else type(value)(inner, value.b)
    if isinstance(value, tvm.ir.Call) and getattr(value.op, "name", "") == "tirx.nearbyint":
        return value.args[0]
    return None


def _is_whole(bound: Any) -> bool:
    bound = bound.value if isinstance(bound, tirx.Broadcast) else bound
    return isinstance(bound, tirx.FloatImm) and float(bound.value).is_integer()
