"""Dot products of x86: what adds two, four or more products into every 32-bit lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script import tirx as T

from lepton_tvm.ir.bfloat16 import dot_helper
from lepton_tvm.schedules.cpu.dot_products import DotUnit
from lepton_tvm.targets import Level

__all__ = ["dot_unit"]

_VPDPBUSD = {
    4: "llvm.x86.avx512.vpdpbusd.128",
    8: "llvm.x86.avx512.vpdpbusd.256",
    16: "llvm.x86.avx512.vpdpbusd.512",
}
_PMADDUBS = {
    4: "llvm.x86.ssse3.pmadd.ub.sw.128",
    8: "llvm.x86.avx2.pmadd.ub.sw",
    16: "llvm.x86.avx512.pmaddubs.w.512",
}
_PMADDWD = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}


def dot_unit(isa: Level, lanes: int, dot: int, operand: str) -> DotUnit:
    """The unit for kernels of `dot` products a lane whose activations are stored as `operand`."""
    if operand in ("bfloat16", "uint16"):
        return _bfloat16(lanes, operand)
    if dot == 2:
        return _pairs(lanes)
    return _vnni(lanes) if isa.dot4 else _maddubs(lanes, dot // 4)


def _bfloat16(lanes: int, operand: str) -> DotUnit:
    """AVX512-BF16's `vdpbf16ps`; `operand` is bfloat16, or uint16 for its bits in a copy."""
    sums, helper = f"float32x{lanes}", dot_helper(lanes)

    def multiply_add(acc: Any, words: Sequence[Any], weights: Sequence[Any]) -> Any:
        (a,), (b,) = words, weights
        return T.call_pure_extern(sums, helper, acc, a, T.reinterpret(f"int32x{lanes}", b))

    return DotUnit(f"bfloat16_{operand}", 2, 1, operand, multiply_add, "bfloat16", "float32")


def _vnni(lanes: int) -> DotUnit:
    sums, wide = f"int32x{lanes}", f"int8x{lanes * 4}"

    def multiply_add(acc: Any, words: Sequence[Any], weights: Sequence[Any]) -> Any:
        (a,), (b,) = words, weights
        return T.call_llvm_pure_intrin(sums, _VPDPBUSD[lanes], acc, T.reinterpret(wide, a), b)

    return DotUnit("vnni", 4, 1, "uint8", multiply_add)


def _maddubs(lanes: int, steps: int) -> DotUnit:
    """Bytes times bytes in 16 bits, `steps` of them added there, then pairs of those in 32 bits."""
    sums, halves, wide = f"int32x{lanes}", f"int16x{lanes * 2}", f"int8x{lanes * 4}"

    def multiply_add(acc: Any, words: Sequence[Any], weights: Sequence[Any]) -> Any:
        total = None
        for a, b in zip(words, weights, strict=True):
            part = T.call_llvm_pure_intrin(halves, _PMADDUBS[lanes], T.reinterpret(wide, a), b)
            total = part if total is None else total + part
        ones = T.broadcast(T.int16(1), lanes * 2)
        return acc + T.call_llvm_pure_intrin(sums, _PMADDWD[lanes], total, ones)

    return DotUnit(f"maddubs{steps}", 4, steps, "uint8", multiply_add)


def _pairs(lanes: int) -> DotUnit:
    """Bytes widened to 16 bits; each pair of products is added in 32."""
    sums, halves = f"int32x{lanes}", f"int16x{lanes * 2}"

    def multiply_add(acc: Any, words: Sequence[Any], weights: Sequence[Any]) -> Any:
        (a,), (b,) = words, weights
        wide = T.cast(b, halves)
        return acc + T.call_llvm_pure_intrin(sums, _PMADDWD[lanes], T.reinterpret(halves, a), wide)

    return DotUnit("pairs", 2, 1, "int16", multiply_add)
