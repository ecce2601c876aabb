"""The end of an integer epilogue in ARM's instructions that round, narrow and saturate at once."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

__all__ = ["saturating_narrow"]

_LANES = 4
_TO_NEAREST, _ADD = "llvm.aarch64.neon.fcvtns", "llvm.sadd.sat"
_INT16, _UINT8 = (-(1 << 15), (1 << 15) - 1), (0, 255)


@tvm.transform.module_pass(opt_level=0, name="lepton.saturating_narrow")
def saturating_narrow(mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
    """Turn vectors of floats into uint8 by `fcvtns`, `sqxtn`, `sqadd` and `sqxtun` (AArch64).

    Before: uint8(int32(max(min(nearbyint(x), high), low)) + zero)      in float32, then int32
    After:  max(min(uint8(sat(int16(sat(fcvtns(x))) + zero)), high + zero), low + zero)

    All bounds are constants and the result is in 0..255, so the two are equal for every x that is
    a number. Bounds of 0 and 255 need no instruction, others one for 16 values instead of four.
    Runs on lowered functions. Does not handle: scalars and lanes that fill no register, which
    `round_once` takes; other targets.
    """
    mod = mod.clone()
    for gvar, func in list(mod.functions.items()):
        if isinstance(func, tirx.PrimFunc) and _is_arm(func):
            body = tvm_ffi.structural_map(func.body, (tirx.Cast, _narrowed), order="post")
            mod[gvar] = func.with_body(body)
    return mod


def _is_arm(func: tirx.PrimFunc) -> bool:
    target = func.attrs.get("target") if func.attrs else None
    return target is not None and str(target.attrs.get("mtriple", "")).startswith("aarch64")


def _narrowed(cast: tirx.Cast) -> Any:
    lanes = _lanes(cast, "uint8")
    if lanes is None:
        return cast
    value, zero = cast.value, 0
    if isinstance(value, tirx.Add) and _whole(value.b) is not None:
        value, zero = value.a, int(_whole(value.b) or 0)
    if not isinstance(value, tirx.Cast) or _lanes(value, "int32") is None:
        return cast
    low, high, inner = _bounds(value.value)
    if inner is None or low + zero < _UINT8[0] or high + zero > _UINT8[1]:
        return cast
    halves = _clipped(_rounded(inner, lanes), _INT16, lanes, "int32").astype(f"int16x{lanes}")
    if zero:
        halves = tirx.call_llvm_pure_intrin(
            f"int16x{lanes}", _ADD, halves, _splat(zero, lanes, "int16")
        )
    made = _clipped(halves, _UINT8, lanes, "int16").astype(f"uint8x{lanes}")
    return _clipped(made, (int(low) + zero, int(high) + zero), lanes, "uint8")


def _rounded(value: Any, lanes: int) -> Any:
    """The nearest int32 of float32, halves to even, register by register."""
    parts = [
        tirx.call_llvm_pure_intrin(
            f"int32x{_LANES}",
            _TO_NEAREST,
            tirx.Shuffle([value], [tirx.const(i, "int32") for i in range(at, at + _LANES)]),
        )
        for at in range(0, lanes, _LANES)
    ]
    if len(parts) == 1:
        return parts[0]
    return tirx.Shuffle(parts, [tirx.const(i, "int32") for i in range(lanes)])


def _clipped(value: Any, limits: tuple[int, int], lanes: int, kind: str) -> Any:
    """`value` within `limits`, without what the element type says anyway."""
    low, high = limits
    if (low, high) == _UINT8 and kind == "uint8":
        return value
    if not (kind == "uint8" and high == _UINT8[1]):
        value = tirx.Min(value, _splat(high, lanes, kind))
    if not (kind == "uint8" and low == _UINT8[0]):
        value = tirx.Max(value, _splat(low, lanes, kind))
    return value


def _bounds(value: Any) -> tuple[float, float, Any]:
    """The constant bounds around a rounded value, and what is rounded; None where it is not."""
    if isinstance(value, tirx.Max | tirx.Min):
        bound = _whole(value.b)
        low, high, inner = _bounds(value.a)
        if bound is None:
            return low, high, None
        cut = max if isinstance(value, tirx.Max) else min
        return cut(low, bound), cut(high, bound), inner
    rounds = isinstance(value, tvm.ir.Call) and getattr(value.op, "name", "") == "tirx.nearbyint"
    return float("-inf"), float("inf"), value.args[0] if rounds else None


def _whole(bound: Any) -> float | None:
    """The whole number that all lanes of a constant are."""
    bound = bound.value if isinstance(bound, tirx.Broadcast) else bound
    if not isinstance(bound, tirx.FloatImm | tirx.IntImm) or float(bound.value) % 1:
        return None
    return float(bound.value)


def _lanes(cast: tirx.Cast, kind: str) -> int | None:
    """How many lanes of `kind` a cast makes, where they fill registers of float32."""
    base, _, lanes = str(cast.ty.dtype).removeprefix("T.").partition("x")
    return int(lanes) if base == kind and lanes.isdigit() and int(lanes) % _LANES == 0 else None


def _splat(value: int, lanes: int, kind: str) -> Any:
    return tirx.Broadcast(tirx.const(value, kind), lanes)
