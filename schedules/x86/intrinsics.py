"""Integer dot products of x86 as tensor intrinsics, one per vector width, made when asked for.

The textual front end of TVM costs about 0.1 s an intrinsic, so none is made at import.
"""

from __future__ import annotations

import functools
from typing import Any

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

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


@functools.cache
def dot_intrinsic(isa: Isa, lanes: int) -> str:
    """The name of: C[lanes] += sum over `dot` of A[dot] (broadcast) * B[lanes, dot].

    With VNNI A is uint8[4]; without it A is int16[2] (bytes already widened) and the product of
    pairs is exact in 32 bits. B is int8, C int32 in a local buffer.
    """
    return _vnni(lanes) if isa.vnni else _pairs(lanes)


@functools.cache
def lanewise_dot_intrinsic(isa: Isa, lanes: int) -> str:
    """The name of: C[lanes] += sum over `dot` of part(A[lanes], dot) * B[lanes, dot].

    A holds `dot` unsigned parts per 32-bit word: four bytes with VNNI, else two 16-bit halves.
    """
    return _vnni_lanewise(lanes) if isa.vnni else _pairs_lanewise(lanes)


def _vnni(lanes: int) -> str:
    name = f"lepton.vnni_dot_{lanes}"
    intrin, wide, ints = _VPDPBUSD[lanes], f"int8x{lanes * 4}", f"int32x{lanes}"

    @T.prim_func(s_tir=True)
    def desc(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (4,), "uint8", offset_factor=1)
        B = T.match_buffer(b, (lanes, 4), "int8", offset_factor=1)
        C = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 4):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (4,), "uint8", offset_factor=1)
        B = T.match_buffer(b, (lanes, 4), "int8", offset_factor=1)
        C = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            C[T.ramp(0, 1, lanes)] = T.call_llvm_pure_intrin(
                ints,
                intrin,
                C.vload([0], dtype=ints),
                T.reinterpret(
                    wide, T.broadcast(T.reinterpret("int32", A.vload([0], dtype="uint8x4")), lanes)
                ),
                B.vload([0, 0], dtype=wide),
            )

    return _register(name, desc, impl)


def _pairs(lanes: int) -> str:
    name = f"lepton.pairs_dot_{lanes}"
    intrin, ints = _PMADDWD[lanes], f"int32x{lanes}"
    bytes_, halves = f"int8x{lanes * 2}", f"int16x{lanes * 2}"

    @T.prim_func(s_tir=True)
    def desc(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (2,), "int16", offset_factor=1)
        B = T.match_buffer(b, (lanes, 2), "int8", offset_factor=1)
        C = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:2], B[0:lanes, 0:2])
            T.writes(C[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 2):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (2,), "int16", offset_factor=1)
        B = T.match_buffer(b, (lanes, 2), "int8", offset_factor=1)
        C = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:2], B[0:lanes, 0:2])
            T.writes(C[0:lanes])
            C[T.ramp(0, 1, lanes)] = C.vload([0], dtype=ints) + T.call_llvm_pure_intrin(
                ints,
                intrin,
                T.reinterpret(
                    halves,
                    T.broadcast(T.reinterpret("int32", A.vload([0], dtype="int16x2")), lanes),
                ),
                T.cast(B.vload([0, 0], dtype=bytes_), halves),
            )

    return _register(name, desc, impl)


def _vnni_lanewise(lanes: int) -> str:
    name = f"lepton.vnni_lanewise_{lanes}"
    intrin, wide, ints = _VPDPBUSD[lanes], f"int8x{lanes * 4}", f"int32x{lanes}"

    @T.prim_func(s_tir=True)
    def desc(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (lanes,), "int32", offset_factor=1)
        B = T.match_buffer(b, (lanes, 4), "int8", offset_factor=1)
        C = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:lanes], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i in T.serial(0, lanes):
                with T.sblock("update"):
                    vi = T.axis.spatial(lanes, i)
                    C[vi] = C[vi] + (
                        T.bitwise_and(A[vi], 255) * T.cast(B[vi, 0], "int32")
                        + T.bitwise_and(T.shift_right(A[vi], 8), 255) * T.cast(B[vi, 1], "int32")
                        + T.bitwise_and(T.shift_right(A[vi], 16), 255) * T.cast(B[vi, 2], "int32")
                        + T.bitwise_and(T.shift_right(A[vi], 24), 255) * T.cast(B[vi, 3], "int32")
                    )

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (lanes,), "int32", offset_factor=1)
        B = T.match_buffer(b, (lanes, 4), "int8", offset_factor=1)
        C = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:lanes], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            C[T.ramp(0, 1, lanes)] = T.call_llvm_pure_intrin(
                ints,
                intrin,
                C.vload([0], dtype=ints),
                T.reinterpret(wide, A.vload([0], dtype=ints)),
                B.vload([0, 0], dtype=wide),
            )

    return _register(name, desc, impl)


def _pairs_lanewise(lanes: int) -> str:
    name = f"lepton.pairs_lanewise_{lanes}"
    intrin, ints = _PMADDWD[lanes], f"int32x{lanes}"
    bytes_, halves = f"int8x{lanes * 2}", f"int16x{lanes * 2}"

    @T.prim_func(s_tir=True)
    def desc(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (lanes,), "int32", offset_factor=1)
        B = T.match_buffer(b, (lanes, 2), "int8", offset_factor=1)
        C = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:lanes], B[0:lanes, 0:2])
            T.writes(C[0:lanes])
            for i in T.serial(0, lanes):
                with T.sblock("update"):
                    vi = T.axis.spatial(lanes, i)
                    C[vi] = C[vi] + (
                        T.bitwise_and(A[vi], 65535) * T.cast(B[vi, 0], "int32")
                        + T.bitwise_and(T.shift_right(A[vi], 16), 65535) * T.cast(B[vi, 1], "int32")
                    )

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (lanes,), "int32", offset_factor=1)
        B = T.match_buffer(b, (lanes, 2), "int8", offset_factor=1)
        C = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:lanes], B[0:lanes, 0:2])
            T.writes(C[0:lanes])
            C[T.ramp(0, 1, lanes)] = C.vload([0], dtype=ints) + T.call_llvm_pure_intrin(
                ints,
                intrin,
                T.reinterpret(halves, A.vload([0], dtype=ints)),
                T.cast(B.vload([0, 0], dtype=bytes_), halves),
            )

    return _register(name, desc, impl)


def _register(name: str, desc: Any, impl: Any) -> str:
    TensorIntrin.register(name, desc, impl, override=True)
    return name
