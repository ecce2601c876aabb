"""Products on the ordinary units of a GPU: every thread keeps a small tile of sums in registers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.schedules.base import Choices
from lepton_tvm.schedules.cuda.block_tiles import Tile, Work, aligned, best_tile
from lepton_tvm.schedules.cuda.gpu_anchor import (
    FEW_ROWS,
    bind_blocks,
    copy_in_turns,
    find_product,
    fits_shared,
    gpu_schedule,
    pad_product,
)
from lepton_tvm.schedules.cuda.gpu_intrinsics import dp4a
from lepton_tvm.targets import Target
from lepton_tvm.targets.cuda import gpu_of

__all__ = ["ThreadProduct"]

_WORD = 4  # bytes that dp4a takes at once
_SIDE = 16  # threads along the rows and along the columns of a block
_EACH = (1, 2, 4, 8)  # rows or columns of a thread
_DEPTHS = (16, 32, 64)
_BANKS = 128  # bytes
# Multiply-adds of floats that a multiprocessor makes in a cycle; of bytes four times as many.
_RATE = 64


@dataclass(frozen=True)
class ThreadProduct:
    """Template for `gemm` in float32, and in int8 with `dp4a`.

    A block of 16 x 16 threads fetches a slice of both operands into shared memory and multiplies
    it; the epilogue reads the sums from the thread's own registers.
    """

    name: str = "cuda.thread_product"
    groups: ClassVar[tuple[str, ...]] = ("conv2d", "matmul")

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        sch = gpu_schedule(func)
        found = find_product(sch)
        if found is None:
            return None
        block, (m, n, k), operand = found
        integer = operand == "int8"
        if operand not in ("int8", "float32"):
            return None
        if m <= FEW_ROWS:
            return None
        size = 1 if integer else 4
        batch = math.prod(int(sch.get(loop).extent) for loop in sch.get_loops(block)[:-3])
        work = Work(batch, m, n, k, size, _RATE * _WORD // size)
        best = best_tile(_tiles(size), work, gpu_of(target))
        rows = choices.pick(sch, "thread_rows", _EACH, best.rows // _SIDE)
        columns = choices.pick(sch, "thread_columns", _EACH, best.columns // _SIDE)
        depth = choices.pick(sch, "block_depth", _DEPTHS, best.depth)
        tile = (_SIDE * rows, _SIDE * columns, depth)
        fits_shared(_tile(rows, columns, depth, size).shared, target)
        made = pad_product(sch, block, tile)
        if made is None:
            return None
        sums = made.reduction
        sch.set_scope(sums, 0, "local")
        for side, each in ((made.rows, rows), (made.columns, columns)):
            sch.set_scope(side, 0, "shared")
            sch.transform_layout(side, ("write", 0), _in_words(each))
            word, line = _strides(each, depth, size)
            sch.storage_align(side, 0, made.ranks + 1, *line)
            sch.storage_align(side, 0, made.ranks, *word)
        *batches, i, j, kk = sch.get_loops(sums)
        bi, ti, vi = sch.split(i, [None, _SIDE, rows])
        bj, tj, vj = sch.split(j, [None, _SIDE, columns])
        ko, ki, kw = sch.split(kk, [None, depth // _WORD, _WORD])
        sch.reorder(*batches, bi, bj, ti, tj, ko, ki, vi, vj, kw)
        bind_blocks(sch, batches, bi, bj, target)
        sch.bind(ti, "threadIdx.y")
        sch.bind(tj, "threadIdx.x")
        for side in (made.rows, made.columns):
            sch.compute_at(side, ko)
            copy_in_turns(sch, sch.get_loops(side)[-2:], (_SIDE, _SIDE), _WORD)
        sch.reverse_compute_at(made.store, tj)
        if columns > 1:  # CUDA has vectors of up to four
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


def _strides(each: int, depth: int, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Distances in shared memory of `_in_words`: of words of the depth, of lines of a thread.

    Each as a multiple and what is added to it, in elements. A store of a group of threads, which
    fills all banks once, then meets each bank once: it holds `lines` lines of neighbouring words.
    """
    group = _BANKS // (_WORD * size)
    lines = max(1, group // (depth // _WORD))
    between = max(1, lines // each) % lines
    return (group * _WORD, lines % group * _WORD), (lines * _WORD, between * _WORD)


def _tile(rows: int, columns: int, depth: int, size: int) -> Tile:
    shared = 0
    for each in (rows, columns):
        word, line = _strides(each, depth, size)
        shared += aligned(each * aligned(_SIDE * _WORD, *line), *word) * depth // _WORD * size
    # every thread of a line reads the same, half of them in one go
    return Tile(_SIDE * rows, _SIDE * columns, depth, _SIDE * _SIDE, size, _SIDE // 2, shared)


def _tiles(size: int) -> list[Tile]:
    return [_tile(*shape, size) for shape in itertools.product(_EACH, _EACH, _DEPTHS)]


def _in_words(each: int) -> Callable[..., list[Any]]:
    """[..., line, depth] -> [..., depth / 4, line % each, line / each, 4].

    A thread takes `each` neighbouring lines; in memory those of neighbouring threads lie side by
    side, so that the threads of a warp load from different banks.
    """

    def words(*index: Any) -> list[Any]:
        *batch, line, depth = index
        return [*batch, depth // _WORD, line % each, line // each, depth % _WORD]

    return words
