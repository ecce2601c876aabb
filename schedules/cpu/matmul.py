"""Product with packed weights (dense layers and 1x1 convolutions): a tile of rows times columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.schedules.base import Block, Choices, new_schedule
from lepton_tvm.schedules.cpu.anchor import (
    Anchor,
    dot_loops,
    find_anchor,
    finish_tile,
    parallel_outer,
    shared_by,
    vectorize_inner,
)
from lepton_tvm.schedules.cpu.dot_products import UnitOf
from lepton_tvm.schedules.cpu.operand_lanes import multiply_tile, split_rounds
from lepton_tvm.schedules.prefetch import mark_prefetch
from lepton_tvm.targets import Target

__all__ = ["Matmul", "columns_outermost", "flatten_rows"]

# Weights within this size are read again from the first- and second-level cache at no cost.
_NEAR_WEIGHTS = 64 * 1024


@dataclass(frozen=True)
class Matmul:
    """Template for the reduction block `matmul` (float32, bfloat16 and int8).

    Either the row tiles or the column blocks go outermost, whichever reads fewer bytes again:
    all weights for every row tile, or all rows for every column block.

    Choices: `column_blocks_outermost`; else `tiles_at_once` row tiles share a block of weights
    while it is near; `unroll_depth` steps of the sum a round; `prefetch_weights`;
    `unroll_epilogue`.
    """

    name: str
    groups: ClassVar[tuple[str, ...]] = ("matmul",)
    unit_of: UnitOf

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        sch = new_schedule(func)
        anchor = find_anchor(sch, "matmul")
        if anchor is None:
            return None
        flatten_rows(sch, anchor.store)
        m, k, rc, *rest = sch.get_loops(anchor.reduction)
        rows, columns, *depths = [int(sch.get(loop).extent) for loop in (m, k, rc, *rest)]
        macs = rows * columns * math.prod(depths)
        block = anchor.lanes * anchor.vectors
        size = anchor.weight_bytes
        columns_out = columns_outermost(sch, choices, anchor, rows, columns, math.prod(depths))
        mo, mi = sch.split(m, [None, anchor.rows])
        ko, kv, kl = sch.split(k, [None, anchor.vectors, anchor.lanes])
        rc, *inside = dot_loops(sch, anchor, rc, kl, rest)
        rc, steps, lanes = split_rounds(sch, choices, target.level, anchor, rc)
        if columns_out:
            outer, inner = ko, mo
            sch.reorder(ko, mo, rc, *steps, mi, kv, *inside)
        else:
            outer, together = shared_by(sch, choices, "tiles_at_once", mo)
            inner = together[0] if together else ko
            sch.reorder(outer, ko, *together, rc, *steps, mi, kv, *inside)
        lane, intrinsic = multiply_tile(
            sch, self.unit_of, target.level, anchor, lanes, rc, (mi, kv, inside[0]), steps
        )
        if anchor.pad is not None:
            parallel_outer(sch, sch.get_loops(anchor.pad)[0], macs, anchor.dot)
            vectorize_inner(sch, anchor.pad, target.level.lanes * 4 // size)
        parallel_outer(sch, outer, macs, anchor.dot)
        finish_tile(sch, anchor, inner, rc, lane, intrinsic, choices, target.level)
        if columns_out and choices.pick(sch, "prefetch_weights", [0, 1], 1):
            mark_prefetch(sch, ko, [mo], [rc], block * math.prod(depths))
        return sch


def columns_outermost(
    sch: Schedule, choices: Choices, anchor: Anchor, rows: int, columns: int, depth: int
) -> int:
    """Whether column blocks go outermost: by default where that reads fewer bytes again."""
    weights = columns * depth * anchor.weight_bytes
    again_weights = weights * (rows // anchor.rows) if weights > _NEAR_WEIGHTS else 0
    blocks = columns // (anchor.lanes * anchor.vectors)
    again_rows = rows * depth * anchor.weight_bytes * blocks
    return choices.pick(sch, "column_blocks_outermost", [0, 1], int(again_weights > again_rows))


def flatten_rows(sch: Schedule, store: Block) -> None:
    """Make the storing block two-dimensional, as the product is: all rows, columns."""
    loops = sch.get_loops(store)
    extents = [int(sch.get(loop).extent) for loop in loops]
    if len(extents) == 2:
        return

    def flat(*index: tvm.tirx.Expr) -> list[tvm.tirx.Expr]:
        row = index[0] if len(index) > 1 else 0
        for extent, i in zip(extents[1:-1], index[1:-1], strict=True):
            row = row * extent + i
        return [row, index[-1]]

    sch.transform_block_layout(store, tvm.tirx.IndexMap.from_func(flat, ndim=len(extents)))
