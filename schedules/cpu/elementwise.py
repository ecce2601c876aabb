"""Functions without a reduction: elementwise chains, layout changes, concatenation, casts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
from tvm import sym
from tvm.s_tir import Schedule

from lepton_tvm.ir.tir_rewrite import map_children, substitute
from lepton_tvm.schedules.base import Block, Choices, block_iters, new_schedule, same_block
from lepton_tvm.schedules.cpu.anchor import vectorize_inner
from lepton_tvm.targets import Target

__all__ = ["Elementwise", "schedule_spatial"]

# Elements below which a second thread costs more than it brings.
_WORTH_A_THREAD = 65_536
# Registers that one round fills by default.
_IN_FLIGHT = 4
# Gathers of an odd number are vectorised whole up to this many registers.
_WIDEST = 4


@dataclass(frozen=True)
class Elementwise:
    """Inlines everything into the blocks that write the outputs, and vectorises those."""

    name: str
    groups: ClassVar[tuple[str, ...]] = ("plain",)

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None where it has a reduction."""
        sch = new_schedule(func)
        root = sch.get_sblock("root")
        blocks = sch.get_child_blocks(root)
        outputs = sch.get_output_blocks(root)
        if not outputs or any("R" in block_iters(sch, b) for b in blocks):
            return None
        for block in blocks:
            if not any(same_block(sch, block, o) for o in outputs):
                sch.compute_inline(block)
        for output in outputs:
            schedule_spatial(sch, output, target, choices)
        return sch


def schedule_spatial(sch: Schedule, block: Block, target: Target, choices: Choices) -> None:
    """Vectorise a block that has spatial loops only; spread it over the cores when it is large.

    Choice: `registers` that one round fills, where all tensors are read alike; four by default.
    """
    loops = sch.get_loops(block)
    extents = [int(sch.get(loop).extent) for loop in loops]
    total = math.prod(extents)
    lanes = target.level.lanes
    if not loops:
        return
    if _is_flat(sch, block) and total % lanes == 0:
        loops = [sch.fuse(*loops)]
        pieces = total // lanes
        fitting = [s for s in (1, 2, 4, 8) if pieces % s == 0]
        default = max(s for s in fitting if s <= _IN_FLIGHT)
        step = choices.pick(sch, "registers", fitting, default)
        outer, _, inner = sch.split(loops[0], [None, step, lanes])
        sch.vectorize(inner)
        if total >= _WORTH_A_THREAD:
            sch.parallel(outer)
        return
    if extents[-1] < lanes // 2 and len(loops) > 1 and extents[-2] % lanes == 0:
        # few channels: the lanes take neighbouring pixels instead
        sch.reorder(loops[-1], loops[-2])
    if len(loops) > 1 and total >= _WORTH_A_THREAD:
        sch.parallel(sch.fuse(*loops[:-2]) if len(loops) > 2 else loops[0])
    if _is_contiguous(sch, block):
        vectorize_inner(sch, block, lanes)
    else:
        _vectorize_gathers(sch, block, lanes)


def _is_contiguous(sch: Schedule, block: Block) -> bool:
    """Whether neighbours along the last axis are neighbours, or the same, in all tensors read."""
    stmt = sch.get(block)
    analyzer = sym.Analyzer()
    *others, inner = stmt.iter_vars
    for item in others:
        analyzer.bind(item.var, item.dom)
    last = inner.var
    # a neighbour to the right exists for all but the last element
    analyzer.bind(last, tvm.ir.Range.from_min_extent(0, max(1, int(inner.dom.extent) - 1)))
    answer = True

    def visit(expr: Any) -> Any:
        nonlocal answer
        if isinstance(expr, tvm.ir.TensorLoad):
            flat: Any = 0
            for extent, index in zip(expr.source.shape, expr.indices, strict=True):
                flat = flat * extent + index
            step = analyzer.simplify(substitute(flat, last, last + 1) - flat)
            answer = answer and isinstance(step, tvm.tirx.IntImm) and int(step) in (0, 1)
            return expr
        return map_children(expr, visit)

    visit(stmt.body.value)
    return answer


def _vectorize_gathers(sch: Schedule, block: Block, lanes: int) -> None:
    """Vectorise the last loop in equal pieces: masks are for contiguous loads only."""
    last = sch.get_loops(block)[-1]
    extent = int(sch.get(last).extent)
    widths = [w for w in range(lanes // 2, _WIDEST * lanes + 1) if extent % w == 0]
    width = lanes if extent % lanes == 0 else (widths[-1] if widths else None)
    if width is not None:
        _, inner = sch.split(last, [None, width])
        sch.vectorize(inner)


def _is_flat(sch: Schedule, block: Block) -> bool:
    """Whether every tensor read has the output's shape and index, or is a single value."""
    stmt = sch.get(block)
    if len(stmt.writes) != 1:
        return False
    written = stmt.writes[0]
    shape = [int(d) for d in written.source.shape]
    index = [r.min for r in written.region]
    for read in stmt.reads:
        if math.prod(int(d) for d in read.source.shape) == 1:
            continue
        if [int(d) for d in read.source.shape] != shape:
            return False
        if not all(a.same_as(b.min) for a, b in zip(index, read.region, strict=True)):
            return False
    return True
