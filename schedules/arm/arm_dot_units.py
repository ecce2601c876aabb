"""Dot products of ARM: what adds two or four products into every 32-bit lane of a register."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script import tirx as T

from lepton_tvm.schedules.cpu.dot_products import DotUnit
from lepton_tvm.targets import Level

__all__ = ["dot_unit"]

_LANES = 4
_SUMS, _HALVES, _BYTES = "int32x4", "int16x8", "int8x16"
# 0x80 in each byte: exclusive or with it takes 128 from an unsigned byte and leaves it signed.
_SIGNS = 0x80808080 - (1 << 32)
_OFFSET = 128


def dot_unit(isa: Level, lanes: int, dot: int, operand: str) -> DotUnit:
    """The unit for kernels of `dot` products a lane whose activations are stored as `operand`."""
    if lanes != _LANES:
        raise ValueError(f"NEON registers have {_LANES} lanes, found {lanes}")
    if dot == 2:
        return DotUnit("neon_pairs", 2, 1, "int16", _pairs)
    if not isa.dot4:
        return DotUnit("neon_bytes", 4, 1, "uint8", _bytes, offset=_OFFSET)
    if isa.offset:
        return DotUnit("sdot", 4, 1, "uint8", _sdot, offset=_OFFSET)
    return DotUnit("usdot", 4, 1, "uint8", _usdot)


def _usdot(acc: Any, words: Sequence[Any], weights: Sequence[Any]) -> Any:
    (a,), (b,) = words, weights
    return _call(_SUMS, "usdot", acc, T.reinterpret(_BYTES, a), b)


def _sdot(acc: Any, words: Sequence[Any], weights: Sequence[Any]) -> Any:
    """The activations come last: the operand of which the instruction can take a single lane."""
    (a,), (b,) = words, weights
    return _call(_SUMS, "sdot", acc, b, _signed(a))


def _bytes(acc: Any, words: Sequence[Any], weights: Sequence[Any]) -> Any:
    """Products in 16 bits, where two of them are added (`kernels/dot.py`), then 32."""
    (a,), (b,) = words, weights
    low, high = (
        _call(_HALVES, "smull", half("int8x8", _signed(a)), half("int8x8", b))
        for half in (T.vectorlow, T.vectorhigh)
    )
    return acc + _call(_SUMS, "saddlp", _call(_HALVES, "addp", low, high))


def _pairs(acc: Any, words: Sequence[Any], weights: Sequence[Any]) -> Any:
    """Bytes widened to 16 bits, products and sums in 32."""
    (a,), (b,) = words, weights
    halves, wide = T.reinterpret(_HALVES, a), T.cast(b, _HALVES)
    low, high = (
        _call(_SUMS, "smull", half("int16x4", halves), half("int16x4", wide))
        for half in (T.vectorlow, T.vectorhigh)
    )
    return acc + _call(_SUMS, "addp", low, high)


def _signed(words: Any) -> Any:
    return T.reinterpret(_BYTES, T.bitwise_xor(words, T.broadcast(T.int32(_SIGNS), _LANES)))


def _call(dtype: str, name: str, *operands: Any) -> Any:
    return T.call_llvm_pure_intrin(dtype, f"llvm.aarch64.neon.{name}", *operands)
