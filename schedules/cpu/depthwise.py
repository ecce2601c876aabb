"""Depthwise convolution: channels in the lanes, a run of pixels in the registers."""

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
from lepton_tvm.schedules.cpu.dot_products import UnitOf, lanewise_dot_intrinsic
from lepton_tvm.targets import Target

__all__ = ["DepthwiseConv2d"]

# The padded lines of one step should stay in the second-level cache: fewer lines mean that more of
# them are copied twice, which was measured to cost more than leaving the first level.
_LINE_BUFFER = 256 * 1024
# So many lines are taken at once even where fewer would keep every core busy.
_FEW_LINES = 7


@dataclass(frozen=True)
class DepthwiseConv2d:
    """Template for the reduction block `depthwise_conv2d` (float32 and int8).

    float32 reads the image in place, with every tile of a line as code of its own; only very wide
    lines are padded first. Padding (and, for int8, interleaving) is done for a few image lines at a
    time, right before they are used, so it never leaves the cache.
    """

    name: str
    groups: ClassVar[tuple[str, ...]] = ("conv2d",)
    unit_of: UnitOf

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        sch = new_schedule(func)
        anchor = find_anchor(sch, "depthwise_conv2d")
        if anchor is None:
            return None
        n, h, w, c, rh, rw, *rest = sch.get_loops(anchor.reduction)
        extents = [int(sch.get(loop).extent) for loop in (n, h, w, c, rh, rw, *rest)]
        macs = math.prod(extents)
        block = anchor.lanes * anchor.vectors
        lines = anchor.lines
        if anchor.dot == 1 and anchor.pad is not None:
            lines = _lines(extents[1], extents[2] * extents[3] * 4, target.cores)
        lines = choices.pick(sch, "lines", _multiples(extents[1], anchor.lines), lines)
        ho, hi = sch.split(h, [None, lines])
        co, cv, cl = sch.split(c, [extents[3] // block, anchor.vectors, anchor.lanes])
        wo, wi = sch.split(w, [None, anchor.rows])
        sch.reorder(n, ho, hi, co, wo, rh, rw, wi, cv, cl, *rest)
        outer = sch.fuse(n, ho)
        parallel_outer(sch, outer, macs, anchor.dot)
        if anchor.pad is not None:
            sch.compute_at(anchor.pad, outer, preserve_unit_loops=True)
            vectorize_inner(sch, anchor.pad, target.level.lanes)
        for loop in (wi, cv, rw):
            sch.unroll(loop)
        if anchor.dot == 1:
            sch.unroll(rh)
            if anchor.notes.unrolled:
                sch.unroll(wo)
        intrinsic = (
            lanewise_dot_intrinsic(self.unit_of, target.level, anchor.lanes, anchor.dot)
            if anchor.tensorized
            else None
        )
        finish_tile(sch, anchor, wo, rh, cl, intrinsic, choices, target.level)
        return sch


def _divisors(extent: int) -> list[int]:
    return [d for d in range(1, extent + 1) if extent % d == 0]


def _multiples(extent: int, lines: int) -> list[int]:
    """The divisors of `extent` that hold whole groups of `lines`, which share their words."""
    return [d for d in _divisors(extent) if d % lines == 0]


def _lines(height: int, line_bytes: int, cores: int) -> int:
    """The most lines, a divisor of the height, whose buffer fits; at least one."""
    most = max(_FEW_LINES, height // cores)
    fitting = [d for d in _divisors(height) if d <= most and d * line_bytes <= _LINE_BUFFER]
    return fitting[-1] if fitting else 1
