"""Convolution over packed weights: a tile of pixels times channels, its sums in registers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.schedules.base import Choices, Loop, new_schedule
from lepton_tvm.schedules.cpu.anchor import (
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

__all__ = ["Conv2d", "blocks_outermost", "order_tiles"]

# Weights beyond this many bytes do not stay in the second-level cache from line to line.
_CACHED_WEIGHTS = 512 * 1024


@dataclass(frozen=True)
class Conv2d:
    """Template for the reduction block `conv2d` (plain and grouped; float32, bfloat16, int8).

    Order: image line, channel block, tile of the line, then the reduction with the tile unrolled
    inside. Where the weights exceed the cache the channel blocks go outermost, so that each block
    of weights is read once.

    Choices: `channel_blocks_outermost`; else `lines_at_once` lines share a block of weights while
    it is near; `unroll_depth` input channels a round; `prefetch_weights`; `unroll_epilogue`.
    """

    name: str
    groups: ClassVar[tuple[str, ...]] = ("conv2d",)
    unit_of: UnitOf

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        sch = new_schedule(func)
        anchor = find_anchor(sch, "conv2d")
        if anchor is None:
            return None
        n, h, w, k, rh, rw, rc, *rest = sch.get_loops(anchor.reduction)
        extents = [int(sch.get(loop).extent) for loop in (n, h, w, k, rh, rw, rc, *rest)]
        macs = math.prod(extents)
        block = anchor.lanes * anchor.vectors
        weight_bytes = macs // math.prod(extents[:3]) * anchor.weight_bytes
        blocks_out = blocks_outermost(sch, choices, weight_bytes)
        ko, kv, kl = sch.split(k, [extents[3] // block, anchor.vectors, anchor.lanes])
        wo, wi = sch.split(w, [None, anchor.rows])
        rc, *inner = dot_loops(sch, anchor, rc, kl, rest)
        rc, steps, lanes = split_rounds(sch, choices, target.level, anchor, rc)
        tile = [wo, rh, rw, rc, *steps, wi, kv, *inner]
        outer = order_tiles(sch, choices, blocks_out, (n, h, ko), tile)
        lane, intrinsic = multiply_tile(
            sch, self.unit_of, target.level, anchor, lanes, rc, (wi, kv, inner[0]), steps
        )
        if anchor.pad is not None:
            pad_outer = sch.fuse(*sch.get_loops(anchor.pad)[:2])
            parallel_outer(sch, pad_outer, macs, anchor.dot)
            vectorize_inner(sch, anchor.pad, target.level.lanes * 4 // anchor.weight_bytes)
        parallel_outer(sch, outer, macs, anchor.dot)
        finish_tile(sch, anchor, wo, rh, lane, intrinsic, choices, target.level)
        if blocks_out and choices.pick(sch, "prefetch_weights", [0, 1], 1):
            mark_prefetch(sch, ko, [n, h, wo], [rh, rw, rc], block * math.prod(extents[4:]))
        return sch


def blocks_outermost(sch: Schedule, choices: Choices, weight_bytes: int) -> int:
    """Whether channel blocks go outermost: by default where the weights exceed the cache."""
    default = int(weight_bytes > _CACHED_WEIGHTS)
    return choices.pick(sch, "channel_blocks_outermost", [0, 1], default)


def order_tiles(
    sch: Schedule,
    choices: Choices,
    blocks_out: int,
    outer: tuple[Loop, Loop, Loop],
    tile: list[Loop],
) -> Loop:
    """Order the loops over pictures, lines and channel blocks around those of `tile`.

    Returns the outermost loop.
    """
    n, h, ko = outer
    if blocks_out:
        sch.reorder(ko, n, h, *tile)
        return ko
    line, together = shared_by(sch, choices, "lines_at_once", sch.fuse(n, h))
    sch.reorder(line, ko, *together, *tile)
    return line
