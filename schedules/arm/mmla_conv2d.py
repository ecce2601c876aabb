"""Convolution by `usmmla` (i8mm): pixels of a line in pairs, 2 x 2 sums in each register."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.kernels.notes import Form
from lepton_tvm.schedules.arm.mmla_tile import THREAD_DOT, finish_mmla_tile, split_mmla_depth
from lepton_tvm.schedules.base import Block, Choices, new_schedule
from lepton_tvm.schedules.cpu.anchor import find_anchor, parallel_outer
from lepton_tvm.schedules.cpu.conv2d import blocks_outermost, order_tiles
from lepton_tvm.schedules.prefetch import mark_prefetch
from lepton_tvm.targets import Target

__all__ = ["MmlaConv2d"]


@dataclass(frozen=True)
class MmlaConv2d:
    """Template for the reduction block `conv2d` whose sums lie in registers of 2 x 2 (int8).

    The loop order is the one of `Conv2d`. A pair of pixels is one load of 16 bytes from the
    kernel's copy of the image.

    Choices: those of `Conv2d`.
    """

    name: str
    groups: ClassVar[tuple[str, ...]] = ("conv2d",)

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        sch = new_schedule(func)
        anchor = find_anchor(sch, "conv2d", Form.MMLA)
        if anchor is None or anchor.pad is None:
            return None
        (sums,) = sch.get_consumers(anchor.reduction)
        # image, line, pairs of pixels, pairs of channels, pixel and channel of a pair; then the
        # filter's rows and columns, groups of 8 bytes and the bytes of a group
        n, h, p, q, i, j, rh, rw, rc, rd = sch.get_loops(anchor.reduction)
        extents = [int(sch.get(loop).extent) for loop in (n, h, p, q, i, j, rh, rw, rc, rd)]
        macs, depth = math.prod(extents), math.prod(extents[6:])
        block = anchor.lanes * anchor.vectors
        blocks_out = blocks_outermost(sch, choices, extents[3] * 2 * depth)
        po, pi = sch.split(p, [None, anchor.rows // 2])
        qo, qi = sch.split(q, [None, block // 2])
        rc, steps = split_mmla_depth(sch, choices, anchor, rc)
        tile = [po, rh, rw, rc, *steps, pi, qi, i, j, rd]
        outer = order_tiles(sch, choices, blocks_out, (n, h, qo), tile)
        sch.unroll(pi)
        sch.unroll(qi)
        _schedule_copy(sch, anchor.pad, macs)
        parallel_outer(sch, outer, macs, THREAD_DOT)
        finish_mmla_tile(sch, anchor, sums, po, rh, i, "global", choices)
        if blocks_out and choices.pick(sch, "prefetch_weights", [0, 1], 1):
            mark_prefetch(sch, qo, [n, h, po], [rh, rw, rc], block * depth)
        return sch


def _schedule_copy(sch: Schedule, copy: Block, macs: int) -> None:
    """Read pixel by pixel, 8 bytes at a time, with lines dealt to the cores."""
    n, line, place, word, i, values = sch.get_loops(copy)
    sch.reorder(place, i, word, values)
    parallel_outer(sch, sch.fuse(n, line), macs, THREAD_DOT)
    sch.vectorize(values)
