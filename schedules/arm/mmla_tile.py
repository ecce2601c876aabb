"""What kernels of `usmmla` (i8mm) share: a tile whose sums lie in registers of 2 x 2."""

from __future__ import annotations

import functools

from tvm.s_tir import Schedule, TensorIntrin
from tvm.script import tirx as T

from lepton_tvm.schedules.base import Block, Choices, Loop
from lepton_tvm.schedules.cpu.anchor import (
    Anchor,
    split_depth,
    unroll_between,
    vectorize_inner,
)

__all__ = ["finish_matrix_tile", "split_matrix_depth"]

# Registers of sums beside which LLVM holds the operands of two words without moving any.
_MOST_SUMS_OF_TWO_WORDS = 18


def split_matrix_depth(
    sch: Schedule, choices: Choices, anchor: Anchor, depth: Loop
) -> tuple[Loop, list[Loop]]:
    """As `split_depth`, by default two words a round: neighbours are loaded by one instruction."""
    sums = anchor.rows * anchor.vectors
    return split_depth(sch, choices, depth, sums, 2 if sums <= _MOST_SUMS_OF_TWO_WORDS else 1)


def finish_matrix_tile(
    sch: Schedule,
    anchor: Anchor,
    sums: Block,
    at: Loop,
    first_reduction: Loop,
    pair: Loop,
    scope: str,
    choices: Choices,
) -> None:
    """Put `sums` in rows under `at`, the epilogue behind them, and tensorize.

    `pair` is the outermost of the loops over 2 rows, 2 columns and 8 bytes of one instruction,
    inside two loops over the pairs of a tile; `scope` is where the activations lie.
    """
    sch.set_scope(anchor.reduction, 0, "local")
    sch.set_scope(sums, 0, "local")
    sch.reverse_compute_at(sums, at, preserve_unit_loops=True)
    sch.reverse_compute_at(anchor.store, at, preserve_unit_loops=True)
    rows, columns = sch.get_loops(sums)[-2:]
    columns, lanes = sch.split(columns, [None, anchor.lanes])
    sch.unroll(rows)
    sch.unroll(columns)
    sch.vectorize(lanes)

    init = sch.decompose_reduction(anchor.reduction, first_reduction)
    sch.tensorize(pair, _usmmla(scope))
    *_, pi, qi, i, j = sch.get_loops(init)
    sch.unroll(pi)
    sch.unroll(qi)
    sch.vectorize(sch.fuse(i, j))
    vectorize_inner(sch, anchor.store, anchor.lanes)
    if choices.pick(sch, "unroll_epilogue", [0, 1], 0):
        unroll_between(sch, at, anchor.store, anchor.rows * anchor.vectors)


@functools.cache
def _usmmla(scope: str) -> str:
    """The name of: C[i, j] += sum over k < 8 of A[i, k] * B[j, k] for 2 rows i and 2 columns j.

    A lies in a buffer of `scope`, its rows one behind the other.
    """
    name = f"lepton.usmmla_{scope}"

    @T.prim_func(s_tir=True)
    def desc(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (2, 8), "uint8", offset_factor=1, scope=scope)
        B = T.match_buffer(b, (2, 8), "int8", offset_factor=1)
        C = T.match_buffer(c, (2, 2), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:2, 0:2], A[0:2, 0:8], B[0:2, 0:8])
            T.writes(C[0:2, 0:2])
            for i, j, k in T.grid(2, 2, 8):
                with T.sblock("update"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "int32") * T.cast(B[vj, vk], "int32")

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (2, 8), "uint8", offset_factor=1, scope=scope)
        B = T.match_buffer(b, (2, 8), "int8", offset_factor=1)
        C = T.match_buffer(c, (2, 2), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:2, 0:2], A[0:2, 0:8], B[0:2, 0:8])
            T.writes(C[0:2, 0:2])
            C[0, T.ramp(0, 1, 4)] = T.call_llvm_pure_intrin(
                "int32x4",
                "llvm.aarch64.neon.usmmla",
                C.vload([0, 0], dtype="int32x4"),
                T.reinterpret("int8x16", A.vload([0, 0], dtype="uint8x16")),
                B.vload([0, 0], dtype="int8x16"),
            )

    TensorIntrin.register(name, desc, impl, override=True)
    return name
