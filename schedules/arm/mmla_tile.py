"""What kernels of `usmmla` (i8mm) share: a tile whose sums lie in registers of 2 x 2."""

from __future__ import annotations

import functools
from typing import Any

from tvm.s_tir import Schedule
from tvm.script import tirx as T

from lepton_tvm.kernels.conv2d import product
from lepton_tvm.schedules.base import Block, Choices, Loop
from lepton_tvm.schedules.cpu.anchor import (
    Anchor,
    split_depth,
    unroll_between,
    vectorize_inner,
)
from lepton_tvm.schedules.intrinsic import Intrinsic, Operand, register

__all__ = ["THREAD_DOT", "finish_mmla_tile", "split_mmla_depth"]

# Registers of sums beside which LLVM holds the operands of two words without moving any.
_MOST_SUMS_OF_TWO_WORDS = 18
#: Whether work is worth a second thread is judged as for dot products of four bytes.
THREAD_DOT = 4


def split_mmla_depth(
    sch: Schedule, choices: Choices, anchor: Anchor, depth: Loop
) -> tuple[Loop, list[Loop]]:
    """As `split_depth`, by default two words a round: neighbours are loaded by one instruction."""
    sums = anchor.rows * anchor.vectors
    return split_depth(sch, choices, depth, sums, 2 if sums <= _MOST_SUMS_OF_TWO_WORDS else 1)


def finish_mmla_tile(
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

    def code(A: Any, B: Any, C: Any) -> None:
        value = T.call_llvm_pure_intrin(
            "int32x4",
            "llvm.aarch64.neon.usmmla",
            C.vload([0, 0], dtype="int32x4"),
            T.reinterpret("int8x16", A.vload([0, 0], dtype="uint8x16")),
            B.vload([0, 0], dtype="int8x16"),
        )
        T.buffer_store(C, value, [0, T.ramp(0, 1, 4)])

    return register(
        Intrinsic(
            name=f"lepton.usmmla_{scope}",
            operands=(
                Operand((2, 8), "uint8", scope),
                Operand((2, 8), "int8"),
                Operand((2, 2), "int32", "local"),
            ),
            loops={"i": 2, "j": 2, "k": 8},
            spatial=("i", "j"),
            reduced=("k",),
            term=lambda A, B, i, j, k: product(A[i, k], B[j, k], 0),
            code=code,
        )
    )
