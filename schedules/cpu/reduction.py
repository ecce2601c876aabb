"""Sums, means, pooling, softmax, normalisation and products of two activations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.schedules.base import Block, Choices, block_iters, new_schedule, same_block
from lepton_tvm.schedules.cpu.elementwise import schedule_spatial
from lepton_tvm.targets import Target

__all__ = ["Reduction"]

_WORTH_A_THREAD = 131_072
# Registers of running results that one pass over the reduced axes keeps.
_REGISTERS = 4


@dataclass(frozen=True)
class Reduction:
    """Any function with reductions that no other template knows.

    Elementwise producers with one reader are inlined. A reduction that keeps its last axis runs
    with that axis in the lanes and the reduced loops inside; one over the last axis keeps one
    partial result per lane and folds those at the end.
    """

    name: str

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None where it has no reduction."""
        sch = new_schedule(func)
        root = sch.get_sblock("root")
        blocks = sch.get_child_blocks(root)
        if not any("R" in block_iters(sch, b) for b in blocks):
            return None
        outputs = sch.get_output_blocks(root)
        kept = []
        for block in blocks:
            is_output = any(same_block(sch, block, o) for o in outputs)
            if (
                "R" not in block_iters(sch, block)
                and not is_output
                and len(sch.get_consumers(block)) == 1
            ):
                sch.compute_inline(block)
            else:
                kept.append(block)
        for block in kept:
            if "R" in block_iters(sch, block):
                _schedule_reduction(sch, block, target)
            else:
                schedule_spatial(sch, block, target, choices)
        return sch


def _schedule_reduction(sch: Schedule, block: Block, target: Target) -> None:
    kinds = block_iters(sch, block)
    loops = sch.get_loops(block)
    if len(loops) != len(kinds) or len(sch.get(block).writes) != 1:
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "S"]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "R"]
    work = math.prod(int(sch.get(loop).extent) for loop in loops)
    lanes = target.level.lanes
    if spatial and int(sch.get(spatial[-1]).extent) >= lanes // 2:
        _lanes_over_kept_axis(sch, block, spatial, reduced, lanes, work)
    elif int(sch.get(reduced[-1]).extent) % lanes == 0 and int(sch.get(reduced[-1]).extent) > lanes:
        _lanes_over_reduced_axis(sch, spatial, reduced, lanes, work)


def _lanes_over_kept_axis(
    sch: Schedule, block: Block, spatial: list[object], reduced: list[object], lanes: int, work: int
) -> None:
    extent = int(sch.get(spatial[-1]).extent)
    wide = next((lanes * v for v in range(_REGISTERS, 0, -1) if extent % (lanes * v) == 0), None)
    if wide is None and extent > lanes and extent % (lanes // 2) == 0:
        wide = lanes // 2  # whole registers of half the width: LLVM takes odd vectors apart badly
    if wide is None:
        wide = extent if extent <= _REGISTERS * lanes else None
    if wide is None:
        divisors = [d for d in range(4, _REGISTERS * lanes + 1) if extent % d == 0]
        wide = divisors[-1] if divisors else 1
    outer, inner = sch.split(spatial[-1], [None, wide])
    sch.reorder(*spatial[:-1], outer, *reduced, inner)
    if wide > 1:
        sch.vectorize(inner)
    top = sch.fuse(*spatial[:-1], outer)
    if work >= _WORTH_A_THREAD and int(sch.get(top).extent) > 1:
        sch.parallel(top)
    sch.decompose_reduction(block, reduced[0])


def _lanes_over_reduced_axis(
    sch: Schedule, spatial: list[object], reduced: list[object], lanes: int, work: int
) -> None:
    _, lane = sch.split(reduced[-1], [None, lanes])
    partial = sch.rfactor(lane, len(spatial))
    loops = sch.get_loops(partial)
    # rfactor leaves the lane loop where it was: innermost
    if spatial and work >= _WORTH_A_THREAD:
        sch.parallel(loops[0])
    sch.vectorize(loops[-1])
    sch.decompose_reduction(partial, loops[len(spatial)])
