"""Winograd convolution: transform a group of tiles, multiply per frequency, transform back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.kernels.register_tile import row_candidates
from lepton_tvm.schedules.base import Block, Choices, Loop, kernel_notes, new_schedule, same_block
from lepton_tvm.schedules.cpu.anchor import vectorize_inner
from lepton_tvm.schedules.cpu.dot_products import UnitOf, bfloat16_dot_intrinsic
from lepton_tvm.targets import Target

__all__ = ["WinogradConv2d"]


@dataclass(frozen=True)
class WinogradConv2d:
    """Template for the reduction block `winograd_conv2d` (float32 and bfloat16).

    With several groups of tiles each is taken through all stages before the next, which keeps the
    frequencies in the second-level cache, and the groups are spread over the cores. With one group
    every stage is spread by itself.
    """

    name: str
    groups: ClassVar[tuple[str, ...]] = ("conv2d",)
    unit_of: UnitOf

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        sch = new_schedule(func)
        root = sch.get_sblock("root")
        blocks = sch.get_child_blocks(root)
        noted = [(b, kernel_notes(sch, b)) for b in blocks]
        found = [(b, n) for b, n in noted if n is not None and n.kernel == "winograd_conv2d"]
        outputs = sch.get_output_blocks(root)
        if len(found) != 1 or len(outputs) != 1:
            return None
        (product, notes), store = found[0], outputs[0]
        (moved,) = sch.get_producers(product)
        (columns,) = sch.get_producers(moved)
        (pad,) = sch.get_producers(columns)
        (back,) = sch.get_consumers(product)
        for block in blocks:
            if not any(
                same_block(sch, block, b) for b in (pad, columns, moved, product, back, store)
            ):
                sch.compute_inline(block)
        tile = _tile(notes)
        fits = [
            rows
            for rows in row_candidates(tile.tiles, tile.vectors, target.level)
            if tile.tiles % rows == 0
        ]
        tile = replace(tile, rows=choices.pick(sch, "rows", fits, tile.rows))
        copy = sch.cache_write(product, 0, "local")
        group, tiles = _schedule_store(sch, store, back, tile)
        at_once = int(sch.get(group).extent) == 1
        if not at_once:
            for block in (copy, product, moved):
                sch.compute_at(block, group, preserve_unit_loops=True)
        frequency, first = _schedule_product(sch, copy, product, tile)
        places = _schedule_transform(sch, moved, columns, tile.lanes)
        line = sch.fuse(*sch.get_loops(pad)[:2])
        vectorize_inner(sch, pad, tile.lanes)
        for loop in (line, places, frequency, tiles) if at_once else (line, group):
            sch.parallel(loop)
        _start_sums(sch, product, first)
        if tile.dot == 2:
            lane = sch.get_loops(product)[-2]
            sch.tensorize(lane, bfloat16_dot_intrinsic(self.unit_of, target.level, tile.lanes))
        return sch


@dataclass(frozen=True)
class Tile:
    """Register tile of the products, image tiles of a group, products added at once."""

    lanes: int
    vectors: int
    rows: int
    tiles: int
    dot: int


def _tile(notes: KernelNotes) -> Tile:
    made, group = notes.tile, notes.winograd_group
    assert made is not None  # `KernelNotes` sees to it
    assert group is not None
    return Tile(made.lanes, made.vectors, made.rows, group, notes.dot)


def _schedule_store(sch: Schedule, store: Block, back: Block, tile: Tile) -> tuple[Loop, Loop]:
    """The output's transform and the epilogue; the loops over groups and over a group's tiles."""
    size = int(sch.get(sch.get_loops(back)[0]).extent)
    n, h, w, k = sch.get_loops(store)
    line, i = sch.split(h, [None, size])
    place, j = sch.split(w, [None, size])
    block, lane = sch.split(k, [None, tile.lanes])
    sch.reorder(n, line, place, block, i, j, lane)
    group, tiles = sch.split(sch.fuse(n, line, place), [None, tile.tiles])
    sch.compute_at(back, block, preserve_unit_loops=True)
    sch.set_scope(back, 0, "local")
    for loop in (i, j, *sch.get_loops(back)[-4:-1]):
        sch.unroll(loop)
    sch.vectorize(lane)
    sch.vectorize(sch.get_loops(back)[-1])
    return group, tiles


def _schedule_product(sch: Schedule, copy: Block, product: Block, tile: Tile) -> tuple[Loop, Loop]:
    """A matrix product per frequency, sums in registers; loops over frequencies and channels."""
    a, b, p, k = sch.get_loops(copy)[-4:]
    outer, row = sch.split(p, [None, tile.rows])
    block, vector, lane = sch.split(k, [None, tile.vectors, tile.lanes])
    sch.reorder(a, b, block, outer, row, vector, lane)
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
    frequency = sch.fuse(a, b)
    sch.compute_at(product, outer, preserve_unit_loops=True)
    loops = sch.get_loops(product)
    p, k, rc, *rest = loops[-3 if tile.dot == 1 else -4 :]
    vector, lane = sch.split(k, [None, tile.lanes])
    sch.reorder(rc, p, vector, lane, *rest)
    sch.unroll(p)
    sch.unroll(vector)
    if not rest:
        sch.vectorize(lane)
    return frequency, rc


def _start_sums(sch: Schedule, product: Block, first: Loop) -> None:
    init = sch.decompose_reduction(product, first)
    rows, vectors, lanes = sch.get_loops(init)[-3:]
    sch.unroll(rows)
    sch.unroll(vectors)
    sch.vectorize(lanes)


def _schedule_transform(sch: Schedule, moved: Block, columns: Block, lanes: int) -> Loop:
    """The input's transform, one register of channels of a tile at a time; the loop over tiles."""
    a, b, p, c = sch.get_loops(moved)[-4:]
    block, lane = sch.split(c, [None, lanes])
    sch.reorder(p, block, a, b, lane)
    sch.compute_at(columns, block, preserve_unit_loops=True)
    sch.set_scope(columns, 0, "local")
    for loop in (a, b, *sch.get_loops(columns)[-4:-1]):
        sch.unroll(loop)
    sch.vectorize(lane)
    sch.vectorize(sch.get_loops(columns)[-1])
    return p
