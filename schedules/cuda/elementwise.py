"""Functions without a reduction: elementwise chains, layout changes, concatenation, casts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.schedules.base import Choices, block_iters, same_block
from lepton_tvm.schedules.cuda.block_tiles import BLOCKS, best_block
from lepton_tvm.schedules.cuda.gpu_anchor import extent, gpu_schedule, spread
from lepton_tvm.targets import Target
from lepton_tvm.targets.cuda import gpu_of

__all__ = ["Elementwise"]


@dataclass(frozen=True)
class Elementwise:
    """Inlines everything into the blocks that write the outputs; one element per thread."""

    name: str = "cuda.elementwise"
    groups: ClassVar[tuple[str, ...]] = ("plain",)

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None where it has a reduction."""
        sch = gpu_schedule(func)
        root = sch.get_sblock("root")
        blocks = sch.get_child_blocks(root)
        outputs = sch.get_output_blocks(root)
        if not outputs or any(set(block_iters(sch, b)) - {"S"} for b in blocks):
            return None
        for block in blocks:
            if not any(same_block(sch, block, o) for o in outputs):
                sch.compute_inline(block)
        elements = max(extent(sch, output, "S") for output in outputs)
        threads = choices.pick(sch, "threads", BLOCKS, best_block(elements, gpu_of(target)))
        for output in outputs:
            spread(sch, output, threads)
        return sch
