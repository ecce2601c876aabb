"""Products on tensor cores: a tile of 16 x 16 sums per fragment, several fragments per warp."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.schedules.base import Block, Choices
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
from lepton_tvm.schedules.cuda.gpu_intrinsics import TILE, fragments
from lepton_tvm.targets import Target
from lepton_tvm.targets.cuda import gpu_of

__all__ = ["TensorProduct"]

_LANES = 32
_ACROSS = 2  # warps along the rows and along the columns of a block
_SIDES = (32, 64, 128)
_DEPTHS = (16, 32, 64, 128, 256)
_RUN = 64  # elements of a line that neighbouring threads copy
_BANKS = 128  # bytes
# Multiply-adds of bytes that a multiprocessor makes in a cycle through `wmma`: about half its best.
_RATE = 1024


@dataclass(frozen=True)
class TensorProduct:
    """Template for `gemm` in int8 and bfloat16 where the GPU has tensor cores for it.

    Four warps fetch a slice of both operands into shared memory, as tiles of 16 x 16 in memory of
    their own, so that fragments are stored and loaded without bank conflicts. The sums go through
    shared memory to the epilogue, which stores whole lines.
    """

    name: str = "cuda.tensor_product"
    groups: ClassVar[tuple[str, ...]] = ("conv2d", "matmul")

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        sch = gpu_schedule(func)
        found = find_product(sch)
        if found is None or found[2] not in gpu_of(target).tensor_types:
            return None
        block, (m, n, k), operand = found
        if m <= FEW_ROWS:
            return None
        size = 1 if operand == "int8" else 2
        batch = math.prod(int(sch.get(loop).extent) for loop in sch.get_loops(block)[:-3])
        work = Work(batch, m, n, k, size, _RATE // size)
        best = best_tile(_tiles(size), work, gpu_of(target))
        rows = choices.pick(sch, "block_rows", _SIDES, best.rows)
        columns = choices.pick(sch, "block_columns", _SIDES, best.columns)
        depth = choices.pick(sch, "block_depth", _DEPTHS, best.depth)
        fits_shared(_tile(rows, columns, depth, size).shared, target)
        made = pad_product(sch, block, (rows, columns, depth))
        if made is None:
            return None
        ranks = made.ranks
        use = fragments(operand, "int32" if operand == "int8" else "float32")
        sides = (made.rows, made.columns)
        for side in sides:
            sch.set_scope(side, 0, "shared")
            sch.transform_layout(side, ("write", 0), _in_tiles())
            sch.storage_align(side, 0, ranks, *_stride(depth, size))
        sums = sch.cache_write(made.reduction, 0, "wmma.accumulator")
        sch.set_scope(sums, 0, "shared")
        *batches, i, j, kk = sch.get_loops(made.reduction)
        bi, wi, fi, ti = sch.split(i, [None, _ACROSS, rows // _ACROSS // TILE, TILE])
        bj, wj, fj, tj = sch.split(j, [None, _ACROSS, columns // _ACROSS // TILE, TILE])
        ko, ki, tk = sch.split(kk, [None, depth // TILE, TILE])
        sch.reorder(*batches, bi, bj, wi, wj, ko, ki, fi, fj, ti, tj, tk)
        place = bind_blocks(sch, batches, bi, bj, target)
        warp = sch.fuse(wi, wj)
        sch.bind(warp, "threadIdx.y")
        loads = []
        for operand_at, scope in enumerate(("wmma.matrix_a", "wmma.matrix_b")):
            loads.append(sch.cache_read(made.reduction, operand_at, scope))
            sch.compute_at(loads[-1], ki)
        threads = (_ACROSS * _ACROSS, _LANES)
        for side in sides:
            sch.compute_at(side, ko)
            line, along = sch.get_loops(side)[-2:]
            run, within = sch.split(along, [None, min(depth, _RUN)])
            sch.reorder(run, line, within)
            copy_in_turns(sch, (line, within), threads, 4)
        sch.reverse_compute_at(sums, warp)
        sch.reverse_compute_at(made.store, place)
        copy_in_turns(sch, sch.get_loops(made.store)[-2:], threads, 4)
        init = sch.decompose_reduction(made.reduction, ko)
        for loop in (fi, fj):
            sch.unroll(loop)
        for part, name in (
            (loads[0], use.load_a), (loads[1], use.load_b), (init, use.fill), (sums, use.store)
        ):  # fmt: skip
            _tensorize(sch, part, name)
        sch.tensorize(ti, use.multiply)
        return sch


def _stride(depth: int, size: int) -> tuple[int, int]:
    """The distance of tiles in shared memory: a multiple, and what is added to it; in elements.

    A run of the depth lies in one tile after the other. Stored at once by the threads of a warp,
    they must not meet the same banks, of which there are 128 bytes.
    """
    tiles = min(depth, _RUN) // TILE
    return _BANKS // size, _BANKS // size // tiles % (_BANKS // size)


def _tile(rows: int, columns: int, depth: int, size: int) -> Tile:
    both = sum(aligned(side * TILE, *_stride(depth, size)) for side in (rows, columns))
    shared = both * depth // TILE * size + rows * columns * 4
    return Tile(rows, columns, depth, _ACROSS**2 * _LANES, size, _ACROSS, shared)


def _tiles(size: int) -> list[Tile]:
    return [_tile(*shape, size) for shape in itertools.product(_SIDES, _SIDES, _DEPTHS)]


def _tensorize(sch: Schedule, block: Block, intrinsic: str) -> None:
    """Cut the last two loops of a block into tiles and put an intrinsic in place of each."""
    *_, i, j = sch.get_loops(block)
    i, ti = sch.split(i, [None, TILE])
    j, tj = sch.split(j, [None, TILE])
    sch.reorder(i, j, ti, tj)
    sch.unroll(i)
    sch.unroll(j)
    sch.tensorize(ti, intrinsic)


def _in_tiles() -> Callable[..., list[Any]]:
    """[..., line, depth] -> [..., depth / 16, line, 16]: a tile is one run of memory."""

    def tiled(*index: Any) -> list[Any]:
        *batch, line, depth = index
        return [*batch, depth // TILE, line, depth % TILE]

    return tiled
