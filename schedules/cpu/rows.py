"""Softmax and layer norm: one row at a time, all its passes while it is in the first cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.kernels.notes import ROW_STAGE
from lepton_tvm.schedules.base import Block, Choices, block_notes, new_schedule, same_block
from lepton_tvm.schedules.cpu.anchor import vectorize_inner
from lepton_tvm.targets import Target

__all__ = ["Rows"]

# Elements below which a second thread costs more than it brings: each takes an exp or more.
_WORTH_A_THREAD = 16_384


@dataclass(frozen=True)
class Rows:
    """Template for functions of `kernels/rows.py`, with what was fused around them.

    Every stage is computed at the loop over rows; running results and what is folded from them stay
    in registers.
    """

    name: str
    groups: ClassVar[tuple[str, ...]] = ("plain",)

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        sch = new_schedule(func)
        root = sch.get_sblock("root")
        blocks = sch.get_child_blocks(root)
        stages = [str(block_notes(sch, b).get(ROW_STAGE, "")) for b in blocks]
        outputs = sch.get_output_blocks(root)
        if "partial" not in stages or len(outputs) != 1:
            return None
        output = outputs[0]
        kept: list[tuple[Block, str]] = []
        for block, stage in zip(blocks, stages, strict=True):
            if same_block(sch, block, output):
                continue
            if stage in ("", "row") and len(sch.get_consumers(block)) == 1:
                sch.compute_inline(block)
            else:
                kept.append((block, stage))
        *leading, _ = sch.get_loops(output)
        columns = int(sch.get(sch.get_loops(output)[-1]).extent)
        row = sch.fuse(*leading) if leading else sch.add_unit_loop(output)
        rows = int(sch.get(row).extent)
        if rows * columns >= _WORTH_A_THREAD and rows > 1:
            sch.parallel(row)
        for block, _ in reversed(kept):
            sch.compute_at(block, row, preserve_unit_loops=True)
            sch.set_scope(block, 0, "local")
        for block, stage in kept:
            if stage == "partial":
                _running_results(sch, block, target.level.lanes)
            elif not sch.get(sch.get_loops(block)[-1]).same_as(sch.get(row)):
                _vectorize(sch, block, target.level.lanes)
        vectorize_inner(sch, output, target.level.lanes)
        return sch


def _running_results(sch: Schedule, block: Block, lanes: int) -> None:
    *_, lane, piece = sch.get_loops(block)
    sch.reorder(piece, lane)
    outer, inner = sch.split(lane, [None, lanes])
    sch.unroll(outer)
    sch.vectorize(inner)
    init = sch.decompose_reduction(block, piece)
    for loop in sch.get_loops(init)[-2:-1]:
        sch.unroll(loop)


def _vectorize(sch: Schedule, block: Block, lanes: int) -> None:
    last = sch.get_loops(block)[-1]
    extent = int(sch.get(last).extent)
    if extent > lanes:
        vectorize_inner(sch, block, lanes)
    elif extent > 1:
        sch.vectorize(last)
