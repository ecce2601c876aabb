"""Sums over windows and axes: depthwise and grouped convolutions, pooling, means, softmax."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.schedules.base import Block, Choices, Loop, block_iters, same_block
from lepton_tvm.schedules.cuda.block_tiles import BLOCKS, best_block
from lepton_tvm.schedules.cuda.gpu_anchor import extent, gpu_schedule, spread
from lepton_tvm.targets import Target
from lepton_tvm.targets.cuda import Gpu, gpu_of

__all__ = ["Reduction"]

_LANES = 32
# Sums of this many terms and more are shared by several threads, unless the results alone keep
# the GPU busy.
_LONG = 64
_BUSY = 65_536
_SHARED_BY = 256


@dataclass(frozen=True)
class Reduction:
    """Any function with reductions that has no template of its own.

    Elementwise producers are inlined. Each reduction is a kernel: one thread per result where the
    sums are short or the results are many, else 32 results (neighbours in memory) or a single one
    per block, whose threads add shares of the sum and fold them. What reads the results is computed
    behind the last reduction where every thread finds its own, else in a kernel of its own.
    """

    name: str = "cuda.reduction"

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None where it has no reduction."""
        sch = gpu_schedule(func)
        root = sch.get_sblock("root")
        blocks = sch.get_child_blocks(root)
        if not any("R" in block_iters(sch, b) for b in blocks):
            return None
        if any("O" in block_iters(sch, b) for b in blocks):
            return None
        kept = _kept(sch)
        threads = choices.pick(sch, "threads", BLOCKS, _threads(sch, kept, gpu_of(target)))
        if len(kept) == 2 and _reads_its_own(sch, *kept):
            reduction, reader = kept
            _fused(sch, reduction, reader, threads)
            return sch
        for block in kept:
            if "R" in block_iters(sch, block):
                _reduce(sch, block, threads)
            else:
                spread(sch, block, threads)
        return sch


def _kept(sch: Schedule) -> list[Block]:
    """The blocks that are left when all others are inlined: reductions and outputs."""
    root = sch.get_sblock("root")
    outputs = sch.get_output_blocks(root)
    kept = []
    for block in sch.get_child_blocks(root):
        is_output = any(same_block(sch, block, o) for o in outputs)
        if is_output or "R" in block_iters(sch, block):
            kept.append(block)
        else:
            sch.compute_inline(block)
    for block in kept:
        if not sch.get_loops(block):
            sch.add_unit_loop(block)  # a result without axes
    return kept


def _threads(sch: Schedule, kept: list[Block], gpu: Gpu) -> int:
    """Threads of a block: as many as share a sum, else what the results ask for."""
    sizes = [(extent(sch, block, "R"), extent(sch, block, "S")) for block in kept]
    if any(_is_long(*size) for size in sizes):
        return _SHARED_BY
    return best_block(max(results for _, results in sizes), gpu)


def _is_long(terms: int, results: int) -> bool:
    """Whether several threads should share a sum."""
    return terms >= _LONG and results < _BUSY


def _reads_its_own(sch: Schedule, reduction: Block, reader: Block) -> bool:
    """Whether a block without a reduction reads one result of a short one per element."""
    if "R" not in block_iters(sch, reduction) or "R" in block_iters(sch, reader):
        return False
    results = extent(sch, reduction, "S")
    if extent(sch, reader, "S") != results:
        return False
    return not _is_long(extent(sch, reduction, "R"), results)


def _fused(sch: Schedule, reduction: Block, reader: Block, threads: int) -> None:
    """One thread per result: sums in a register, then the epilogue."""
    thread, first = _one_thread_each(sch, reduction, threads)
    sch.set_scope(reduction, 0, "local")
    sch.reverse_compute_at(reader, thread)
    sch.decompose_reduction(reduction, first)


def _one_thread_each(sch: Schedule, block: Block, threads: int) -> tuple[Loop, Loop]:
    """Bind the results of a reduction to threads; the thread's loop and the first reduced one."""
    loops = list(zip(sch.get_loops(block), block_iters(sch, block), strict=True))
    spatial = [loop for loop, kind in loops if kind == "S"] or [sch.add_unit_loop(block)]
    reduced = [loop for loop, kind in loops if kind == "R"]
    sch.reorder(*spatial, *reduced)
    result = sch.fuse(*spatial)
    outer, thread = sch.split(result, [None, min(threads, int(sch.get(result).extent))])
    sch.bind(outer, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    return thread, reduced[0]


def _reduce(sch: Schedule, block: Block, threads: int) -> None:
    """A kernel of its own for one reduction; its results go to memory."""
    kinds = block_iters(sch, block)
    loops = sch.get_loops(block)
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "S"]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "R"]
    terms, results = extent(sch, block, "R"), extent(sch, block, "S")
    if not _is_long(terms, results):
        _, first = _one_thread_each(sch, block, threads)
        sch.decompose_reduction(block, first)
        return
    along_sum = "S" not in kinds or kinds.rindex("R") > kinds.rindex("S")
    if not spatial:
        spatial = [sch.add_unit_loop(block)]
    sch.reorder(*spatial, *reduced)
    result = sch.fuse(*spatial)
    # threads of a warp read neighbours in memory: along the sum, or along the results
    width = 1 if along_sum else min(_LANES, results)
    shares = min(threads // width, 1 << (terms - 1).bit_length())
    outer, lane = sch.split(result, [None, width])
    _, share = sch.split(sch.fuse(*reduced), [None, shares])
    sch.bind(outer, "blockIdx.x")
    sch.bind(lane, "threadIdx.y" if along_sum else "threadIdx.x")
    sch.bind(share, "threadIdx.x" if along_sum else "threadIdx.y")
