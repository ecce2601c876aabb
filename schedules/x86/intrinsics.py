"""Dot products of x86 as tensor intrinsics, one per vector width, made when asked for.

The textual front end of TVM costs about 0.1 s an intrinsic, so none is made at import.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from lepton_tvm.ir.bfloat16 import dot_helper
from lepton_tvm.ir.kernels.conv2d import product
from lepton_tvm.schedules.x86.anchor import Anchor
from lepton_tvm.targets import Isa

__all__ = ["dot_intrinsic", "lanewise_dot_intrinsic"]

_VPDPBUSD = {
    4: "llvm.x86.avx512.vpdpbusd.128",
    8: "llvm.x86.avx512.vpdpbusd.256",
    16: "llvm.x86.avx512.vpdpbusd.512",
}
_PMADDWD = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}


@dataclass(frozen=True)
class _DotUnit:
    """An instruction (or two) that adds `dot` products into each 32-bit lane.

    `operand` is the element type of the activations, of which `dot` fill a 32-bit word, `weight`
    that of the weights and `total` that of the sums. `multiply_add` takes and returns vectors:
    sums, int32 words, weights.
    """

    name: str
    dot: int
    operand: str
    multiply_add: Callable[[Any, Any, Any], Any]
    weight: str = "int8"
    total: str = "int32"


def _bfloat16_unit(lanes: int, operand: str) -> _DotUnit:
    """AVX512-BF16's `vdpbf16ps`; `operand` is bfloat16, or uint16 for its bits in a copy."""
    return _DotUnit(
        f"bfloat16_{operand}",
        2,
        operand,
        lambda acc, words, weights: T.call_pure_extern(
            f"float32x{lanes}",
            dot_helper(lanes),
            acc,
            words,
            T.reinterpret(f"int32x{lanes}", weights),
        ),
        "bfloat16",
        "float32",
    )


def _unit(isa: Isa, lanes: int) -> _DotUnit:
    """VNNI's bytes where the target has it, else pairs of 16 bits, which are as exact."""
    sums = f"int32x{lanes}"
    if isa.vnni:
        wide = f"int8x{lanes * 4}"
        return _DotUnit(
            "vnni",
            4,
            "uint8",
            lambda acc, words, weights: T.call_llvm_pure_intrin(
                sums, _VPDPBUSD[lanes], acc, T.reinterpret(wide, words), weights
            ),
        )
    halves = f"int16x{lanes * 2}"
    return _DotUnit(
        "pairs",
        2,
        "int16",
        lambda acc, words, weights: (
            acc
            + T.call_llvm_pure_intrin(
                sums, _PMADDWD[lanes], T.reinterpret(halves, words), T.cast(weights, halves)
            )
        ),
    )


def dot_intrinsic(isa: Isa, anchor: Anchor) -> str:
    """The name of: C[lanes] += sum over `dot` of A[dot] (for all lanes) * B[lanes, dot].

    With VNNI A is uint8[4]; without it A is int16[2] (bytes already widened). B is int8, C int32 in
    a local buffer. For bfloat16 A and B are pairs of it (A as uint16 in a copy), and C is float32.
    """
    copied = anchor.operand == "bfloat16" and anchor.pad is not None
    return _dot_intrinsic(isa, anchor.lanes, "uint16" if copied else anchor.operand)


@functools.cache
def _dot_intrinsic(isa: Isa, lanes: int, operand: str) -> str:
    wide = operand in ("bfloat16", "uint16")
    unit = _bfloat16_unit(lanes, operand) if wide else _unit(isa, lanes)
    dot, element, multiply_add = unit.dot, unit.operand, unit.multiply_add
    weight, total = unit.weight, unit.total
    sums, word, weights = f"{total}x{lanes}", f"{element}x{dot}", f"{weight}x{lanes * dot}"

    @T.prim_func(s_tir=True)
    def desc(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (dot,), element, offset_factor=1)
        B = T.match_buffer(b, (lanes, dot), weight, offset_factor=1)
        C = T.match_buffer(c, (lanes,), total, offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:dot], B[0:lanes, 0:dot])
            T.writes(C[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, dot):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        C[vi] = C[vi] + product(A[vk], B[vi, vk])

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (dot,), element, offset_factor=1)
        B = T.match_buffer(b, (lanes, dot), weight, offset_factor=1)
        C = T.match_buffer(c, (lanes,), total, offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:dot], B[0:lanes, 0:dot])
            T.writes(C[0:lanes])
            C[T.ramp(0, 1, lanes)] = multiply_add(
                C.vload([0], dtype=sums),
                T.broadcast(T.reinterpret("int32", A.vload([0], dtype=word)), lanes),
                B.vload([0, 0], dtype=weights),
            )

    return _register(f"lepton.{unit.name}_dot_{lanes}", desc, impl)


@functools.cache
def lanewise_dot_intrinsic(isa: Isa, lanes: int) -> str:
    """The name of: C[lanes] += sum over `dot` of part(A[lanes], dot) * B[lanes, dot].

    A holds `dot` unsigned parts per 32-bit word: four bytes with VNNI, else two 16-bit halves.
    """
    unit = _unit(isa, lanes)
    dot, multiply_add = unit.dot, unit.multiply_add
    sums, bytes_ = f"int32x{lanes}", f"int8x{lanes * dot}"

    @T.prim_func(s_tir=True)
    def desc(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (lanes,), "int32", offset_factor=1)
        B = T.match_buffer(b, (lanes, dot), "int8", offset_factor=1)
        C = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:lanes], B[0:lanes, 0:dot])
            T.writes(C[0:lanes])
            for i in T.serial(0, lanes):
                with T.sblock("update"):
                    vi = T.axis.spatial(lanes, i)
                    C[vi] = C[vi] + _sum_of_parts(A, B, vi, dot)

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (lanes,), "int32", offset_factor=1)
        B = T.match_buffer(b, (lanes, dot), "int8", offset_factor=1)
        C = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:lanes], B[0:lanes, 0:dot])
            T.writes(C[0:lanes])
            C[T.ramp(0, 1, lanes)] = multiply_add(
                C.vload([0], dtype=sums), A.vload([0], dtype=sums), B.vload([0, 0], dtype=bytes_)
            )

    return _register(f"lepton.{unit.name}_lanewise_{lanes}", desc, impl)


def _sum_of_parts(A: Any, B: Any, lane: Any, dot: int) -> Any:
    """The expression that the integer depthwise kernel sums, term by term in the same order."""
    bits = 32 // dot
    total = None
    for part in range(dot):
        word = T.shift_right(A[lane], bits * part) if part else A[lane]
        product = T.bitwise_and(word, (1 << bits) - 1) * T.cast(B[lane, part], "int32")
        total = product if total is None else total + product
    return total


def _register(name: str, desc: Any, impl: Any) -> str:
    TensorIntrin.register(name, desc, impl, override=True)
    return name
