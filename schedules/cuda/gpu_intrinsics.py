"""What NVIDIA's GPUs multiply at once, as tensor intrinsics: tensor-core tiles and `dp4a`.

Tensor cores are reached through CUDA's `nvcuda::wmma` (16 x 16 x 16), for which TVM has code
generation; one warp works on a fragment together. Made when asked for, as on other targets.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

__all__ = ["TILE", "Fragments", "dp4a", "fragments"]

#: Rows, columns and depth of a fragment.
TILE = 16
_ALIGN = 32  # wmma wants pointers of 256 bits


@dataclass(frozen=True)
class Fragments:
    """Names of the intrinsics that work on fragments of one pair of types."""

    load_a: str
    load_b: str
    fill: str
    multiply: str
    store: str


@functools.cache
def fragments(operand: str, total: str) -> Fragments:
    """Both operands lie as [rows, depth] tiles of consecutive memory in `shared`."""
    stem = f"lepton.wmma_{operand}"
    return Fragments(
        _load(f"{stem}_load_a", operand, "wmma.matrix_a", "row_major"),
        _load(f"{stem}_load_b", operand, "wmma.matrix_b", "col_major"),
        _fill(f"{stem}_fill", total),
        _multiply(f"{stem}_multiply", operand, total),
        _store(f"{stem}_store", total),
    )


def _index(fragment: Any) -> Any:
    """Which fragment of the buffer: fragments are TILE x TILE and lie in a row-major grid."""
    stride = fragment.strides[0]
    row = fragment.elem_offset // stride // TILE
    return row * (stride // TILE) + fragment.elem_offset % stride // TILE


def _load(name: str, dtype: str, scope: str, layout: str) -> str:
    @T.prim_func(s_tir=True)
    def desc(a: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (TILE, TILE), dtype, align=_ALIGN, offset_factor=TILE, scope="shared")
        C = T.match_buffer(c, (TILE, TILE), dtype, align=64, offset_factor=TILE, scope=scope)
        with T.sblock("root"):
            T.reads(A[0:TILE, 0:TILE])
            T.writes(C[0:TILE, 0:TILE])
            for i, j in T.grid(TILE, TILE):
                with T.sblock("load"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    C[vi, vj] = A[vi, vj]

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, c: T.handle) -> None:
        s1, s0, d1, d0 = T.int32(), T.int32(), T.int32(), T.int32()
        A = T.match_buffer(
            a, (TILE, TILE), dtype, align=_ALIGN, offset_factor=TILE, scope="shared",
            strides=[s1, s0],
        )  # fmt: skip
        C = T.match_buffer(
            c, (TILE, TILE), dtype, align=64, offset_factor=TILE, scope=scope, strides=[d1, d0]
        )
        with T.sblock("root"):
            T.reads(A[0:TILE, 0:TILE])
            T.writes(C[0:TILE, 0:TILE])
            T.evaluate(
                T.tvm_load_matrix_sync(
                    C.data, TILE, TILE, TILE, _index(C), A.access_ptr("r"), s1, layout,
                    dtype="handle",
                )
            )  # fmt: skip

    return _register(name, desc, impl)


def _fill(name: str, dtype: str) -> str:
    zero = T.int32(0) if dtype == "int32" else T.float32(0)

    @T.prim_func(s_tir=True)
    def desc(c: T.handle) -> None:
        C = T.match_buffer(
            c, (TILE, TILE), dtype, align=64, offset_factor=TILE, scope="wmma.accumulator"
        )
        with T.sblock("root"):
            T.reads()
            T.writes(C[0:TILE, 0:TILE])
            for i, j in T.grid(TILE, TILE):
                with T.sblock("init"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    C[vi, vj] = zero

    @T.prim_func(s_tir=True)
    def impl(c: T.handle) -> None:
        d1, d0 = T.int32(), T.int32()
        C = T.match_buffer(
            c, (TILE, TILE), dtype, align=64, offset_factor=TILE, scope="wmma.accumulator",
            strides=[d1, d0],
        )  # fmt: skip
        with T.sblock("root"):
            T.reads()
            T.writes(C[0:TILE, 0:TILE])
            T.evaluate(
                T.tvm_fill_fragment(
                    C.data, TILE, TILE, TILE, _index(C), T.float32(0), dtype="handle"
                )
            )

    return _register(name, desc, impl)


def _multiply(name: str, operand: str, total: str) -> str:
    @T.prim_func(s_tir=True)
    def desc(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(
            a, (TILE, TILE), operand, align=64, offset_factor=TILE, scope="wmma.matrix_a"
        )
        B = T.match_buffer(
            b, (TILE, TILE), operand, align=64, offset_factor=TILE, scope="wmma.matrix_b"
        )
        C = T.match_buffer(
            c, (TILE, TILE), total, align=64, offset_factor=TILE, scope="wmma.accumulator"
        )
        with T.sblock("root"):
            T.reads(C[0:TILE, 0:TILE], A[0:TILE, 0:TILE], B[0:TILE, 0:TILE])
            T.writes(C[0:TILE, 0:TILE])
            for i, j, k in T.grid(TILE, TILE, TILE):
                with T.sblock("update"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], total) * T.cast(B[vj, vk], total)

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, b: T.handle, c: T.handle) -> None:
        a1, a0, b1, b0 = T.int32(), T.int32(), T.int32(), T.int32()
        c1, c0 = T.int32(), T.int32()
        A = T.match_buffer(
            a, (TILE, TILE), operand, align=64, offset_factor=TILE, scope="wmma.matrix_a",
            strides=[a1, a0],
        )  # fmt: skip
        B = T.match_buffer(
            b, (TILE, TILE), operand, align=64, offset_factor=TILE, scope="wmma.matrix_b",
            strides=[b1, b0],
        )  # fmt: skip
        C = T.match_buffer(
            c, (TILE, TILE), total, align=64, offset_factor=TILE, scope="wmma.accumulator",
            strides=[c1, c0],
        )  # fmt: skip
        with T.sblock("root"):
            T.reads(C[0:TILE, 0:TILE], A[0:TILE, 0:TILE], B[0:TILE, 0:TILE])
            T.writes(C[0:TILE, 0:TILE])
            T.evaluate(
                T.tvm_mma_sync(
                    C.data, _index(C), A.data, _index(A), B.data, _index(B), C.data, _index(C),
                    dtype="handle",
                )
            )  # fmt: skip

    return _register(name, desc, impl)


def _store(name: str, dtype: str) -> str:
    @T.prim_func(s_tir=True)
    def desc(a: T.handle, c: T.handle) -> None:
        A = T.match_buffer(
            a, (TILE, TILE), dtype, align=64, offset_factor=TILE, scope="wmma.accumulator"
        )
        C = T.match_buffer(c, (TILE, TILE), dtype, align=_ALIGN, offset_factor=TILE, scope="shared")
        with T.sblock("root"):
            T.reads(A[0:TILE, 0:TILE])
            T.writes(C[0:TILE, 0:TILE])
            for i, j in T.grid(TILE, TILE):
                with T.sblock("store"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    C[vi, vj] = A[vi, vj]

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, c: T.handle) -> None:
        s1, s0, d1, d0 = T.int32(), T.int32(), T.int32(), T.int32()
        A = T.match_buffer(
            a, (TILE, TILE), dtype, align=64, offset_factor=TILE, scope="wmma.accumulator",
            strides=[d1, d0],
        )  # fmt: skip
        C = T.match_buffer(
            c, (TILE, TILE), dtype, align=_ALIGN, offset_factor=TILE, scope="shared",
            strides=[s1, s0],
        )  # fmt: skip
        with T.sblock("root"):
            T.reads(A[0:TILE, 0:TILE])
            T.writes(C[0:TILE, 0:TILE])
            T.evaluate(
                T.tvm_store_matrix_sync(
                    A.data, TILE, TILE, TILE, _index(A), C.access_ptr("w"), s1, "row_major",
                    dtype="handle",
                )
            )  # fmt: skip

    return _register(name, desc, impl)


@functools.cache
def dp4a() -> str:
    """C += sum of four products of signed bytes, in one instruction (compute capability 6.1)."""

    @T.prim_func(s_tir=True)
    def desc(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (4,), "int8", align=4, offset_factor=4, scope="shared")
        B = T.match_buffer(b, (4,), "int8", align=4, offset_factor=4, scope="shared")
        C = T.match_buffer(c, (1,), "int32", align=4, offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0], A[0:4], B[0:4])
            T.writes(C[0])
            for k in range(4):
                with T.sblock("update"):
                    vk = T.axis.remap("R", [k])
                    C[0] = C[0] + T.cast(A[vk], "int32") * T.cast(B[vk], "int32")

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (4,), "int8", align=4, offset_factor=4, scope="shared")
        B = T.match_buffer(b, (4,), "int8", align=4, offset_factor=4, scope="shared")
        C = T.match_buffer(c, (1,), "int32", align=4, offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0], A[0:4], B[0:4])
            T.writes(C[0])
            C[0] = T.call_pure_extern(
                "int32", "__dp4a", A.vload([0], "int8x4"), B.vload([0], "int8x4"), C[0]
            )

    return _register("lepton.dp4a", desc, impl)


def _register(name: str, desc: Any, impl: Any) -> str:
    TensorIntrin.register(name, desc, impl, override=True)
    return name
