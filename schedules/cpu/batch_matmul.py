"""Product of two activations: one small packed product per matrix of the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.schedules.base import Choices, new_schedule
from lepton_tvm.schedules.cpu.anchor import (
    find_anchor,
    finish_tile,
    parallel_outer,
    vectorize_inner,
)
from lepton_tvm.targets import Target

__all__ = ["BatchMatmul"]

# A row tile of the first operand within this size stays in the first-level cache while every
# column block passes.
_NEAR_ROWS = 16 * 1024


@dataclass(frozen=True)
class BatchMatmul:
    """Template for the reduction block `batch_matmul` (float32).

    Choices: `pack_per_matrix` packs a second matrix right before its product, in the same core and
    cache (default where the batch has a matrix for every core), else all of them first;
    `column_blocks_outermost` as in `Matmul`.
    """

    name: str
    groups: ClassVar[tuple[str, ...]] = ("matmul",)

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        sch = new_schedule(func)
        anchor = find_anchor(sch, "batch_matmul")
        if anchor is None or anchor.pad is None:
            return None
        *batch, m, n, k = sch.get_loops(anchor.reduction)
        rows, depth = (int(sch.get(loop).extent) for loop in (m, k))
        matrices = math.prod(int(sch.get(loop).extent) for loop in batch)
        macs = matrices * rows * depth * int(sch.get(n).extent)
        per_matrix = choices.pick(sch, "pack_per_matrix", [0, 1], int(matrices >= target.cores))
        near = anchor.rows * depth * 4 <= _NEAR_ROWS
        columns_out = choices.pick(sch, "column_blocks_outermost", [0, 1], int(not near))
        mo, mi = sch.split(m, [None, anchor.rows])
        no, nv, nl = sch.split(n, [None, anchor.vectors, anchor.lanes])
        first, second = (no, mo) if columns_out else (mo, no)
        sch.reorder(*batch, first, second, k, mi, nv, nl)
        sch.unroll(mi)
        sch.unroll(nv)
        matrix = sch.fuse(*batch)
        if per_matrix:
            parallel_outer(sch, matrix, macs, 1)
            sch.compute_at(anchor.pad, matrix, preserve_unit_loops=True)
        else:
            parallel_outer(sch, sch.fuse(matrix, first), macs, 1)
            packing = sch.fuse(*sch.get_loops(anchor.pad)[:-2])
            parallel_outer(sch, packing, macs, 1)
        vectorize_inner(sch, anchor.pad, target.level.lanes)
        finish_tile(sch, anchor, second, k, nl, None, choices)
        return sch
