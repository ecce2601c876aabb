"""Products on the ordinary units of a GPU: every thread keeps a small tile of sums in registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.schedules.base import Choices
from lepton_tvm.schedules.cuda.anchor import (
    FEW_ROWS,
    copy_in_turns,
    find_product,
    fits_shared,
    gpu_schedule,
    pad_product,
)
from lepton_tvm.schedules.cuda.intrinsics import dp4a
from lepton_tvm.targets import Target
from lepton_tvm.targets.cuda import gpu_of

__all__ = ["ThreadProduct"]

_WORD = 4  # bytes that dp4a takes at once
_SIDE = 16  # threads along the rows and along the columns of a block


@dataclass(frozen=True)
class ThreadProduct:
    """Template for `gemm` in float32, and in int8 with `dp4a`.

    A block of 16 x 16 threads fetches a slice of both operands into shared memory and multiplies
    it; the epilogue reads the sums from the thread's own registers.
    """

    name: str = "cuda.thread_product"

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        sch = gpu_schedule(func)
        found = find_product(sch)
        if found is None:
            return None
        block, (m, n, _), operand = found
        integer = operand == "int8"
        if operand not in ("int8", "float32") or (integer and not gpu_of(target).dp4a):
            return None
        if m <= FEW_ROWS:
            return None
        rows = choices.pick(sch, "thread_rows", [1, 2, 4, 8], 4 if m >= 4 * _SIDE else 1)
        columns = choices.pick(sch, "thread_columns", [1, 2, 4, 8], 4 if n >= 4 * _SIDE else 2)
        depth = choices.pick(sch, "block_depth", [16, 32, 64], 32 if integer else 16)
        tile = (_SIDE * rows, _SIDE * columns, depth)
        size = 1 if integer else 4
        fits_shared((tile[0] + tile[1]) * depth * size, target)
        made = pad_product(sch, block, tile)
        if made is None:
            return None
        sums = made.reduction
        sch.set_scope(sums, 0, "local")
        for side, each in ((made.rows, rows), (made.columns, columns)):
            sch.set_scope(side, 0, "shared")
            sch.transform_layout(side, ("write", 0), _in_words(each))
        *batch, i, j, k = sch.get_loops(sums)
        bi, ti, vi = sch.split(i, [None, _SIDE, rows])
        bj, tj, vj = sch.split(j, [None, _SIDE, columns])
        ko, ki, kw = sch.split(k, [None, depth // _WORD, _WORD])
        sch.reorder(*batch, bi, bj, ti, tj, ko, ki, vi, vj, kw)
        if batch:
            sch.bind(sch.fuse(*batch), "blockIdx.z")
        sch.bind(bi, "blockIdx.x")
        sch.bind(bj, "blockIdx.y")
        sch.bind(ti, "threadIdx.y")
        sch.bind(tj, "threadIdx.x")
        for side in (made.rows, made.columns):
            sch.compute_at(side, ko)
            copy_in_turns(sch, sch.get_loops(side)[-2:], (_SIDE, _SIDE), _WORD)
        sch.reverse_compute_at(made.store, tj)
        # CUDA has vectors of up to four
        last = sch.get_loops(made.store)[-1]
        sch.vectorize(sch.split(last, [None, min(columns, _WORD)])[1])
        init = sch.decompose_reduction(sums, ko)
        for loop in (*sch.get_loops(init)[-2:], vi, vj):
            sch.unroll(loop)
        if integer:
            sch.tensorize(kw, dp4a())
        else:
            sch.unroll(kw)
        return sch


def _in_words(each: int) -> Callable[..., list[Any]]:
    """[..., line, depth] -> [..., depth / 4, line % each, line / each, 4].

    A thread takes `each` neighbouring lines; in memory those of neighbouring threads lie side by
    side, so that the threads of a warp load from different banks.
    """

    def words(*index: Any) -> list[Any]:
        *batch, line, depth = index
        return [*batch, depth // _WORD, line % each, line // each, depth % _WORD]

    return words
