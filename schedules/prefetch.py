"""Asks for the next block of packed weights while the present one is multiplied.

A schedule whose outermost loop runs over blocks of weights reads each block once from memory,
during the first of its passes over the rows, and then again from the cache. The first pass is as
slow as memory is; in the others memory has nothing to do. Spread over all passes, the reading costs
nothing. TVM has no schedule primitive for it, so a template annotates its loops (`mark_prefetch`)
and the finished function is completed here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize, Schedule

from lepton_tvm.kernels.notes import WEIGHTS_BLOCK, WEIGHTS_PASS, WEIGHTS_STEP
from lepton_tvm.schedules.base import Loop

__all__ = ["insert_prefetch", "mark_prefetch"]

# With fewer passes a block is used up sooner than the next can come.
_FEWEST_PASSES = 3


def mark_prefetch(
    sch: Schedule, block: Loop, passes: list[Loop], steps: list[Loop], elements: int
) -> None:
    """Mark the loops of a kernel whose weights shall be fetched ahead.

    `block` runs over the blocks of `elements` packed weights each, `passes` over the uses of one,
    `steps` over its parts, in order from the outside in.
    """
    if math.prod(int(sch.get(loop).extent) for loop in passes) < _FEWEST_PASSES:
        return
    sch.annotate(block, WEIGHTS_BLOCK, elements)
    for loop in passes:
        sch.annotate(loop, WEIGHTS_PASS, 1)
    for loop in steps:
        sch.annotate(loop, WEIGHTS_STEP, 1)


def insert_prefetch(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` with a prefetch in the innermost marked loop; `func` itself where none is marked."""
    found = _Marked()
    body = _rewritten(func.body, func, found)
    return func.with_body(body) if found.inserted else func


@dataclass
class _Marked:
    """The marked loops that enclose the present place, as (variable, extent)."""

    block: tuple[Any, int] | None = None
    weights: Any = None
    passes: list[tuple[Any, int]] = field(default_factory=list)
    steps: list[tuple[Any, int]] = field(default_factory=list)
    inserted: bool = False


def _rewritten(stmt: Any, func: tirx.PrimFunc, found: _Marked) -> Any:
    if isinstance(stmt, SBlockRealize):
        block = stmt.block
        body = _rewritten(block.body, func, found)
        if body is block.body:
            return stmt
        made = SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, body, block.init,
            block.alloc_buffers, block.match_buffers, block.annotations, block.span,
        )  # fmt: skip
        return SBlockRealize(stmt.iter_values, stmt.predicate, made, stmt.span)
    if isinstance(stmt, tirx.SeqStmt):
        parts = [_rewritten(s, func, found) for s in stmt.seq]
        return tirx.SeqStmt(parts, stmt.span) if found.inserted else stmt
    if not isinstance(stmt, tirx.For):
        return stmt
    # a loop whose extent is computed is never marked
    loop = (stmt.loop_var, int(getattr(stmt.extent, "value", 0)))
    inside = _entered(stmt, loop, func, found)
    body = _rewritten(stmt.body, func, inside)
    if WEIGHTS_STEP in stmt.annotations and not inside.inserted and inside.weights is not None:
        body = tirx.SeqStmt([_prefetch(inside), body])
        inside.inserted = True
    found.inserted |= inside.inserted
    if not inside.inserted:
        return stmt
    return tirx.For(
        stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body,
        stmt.thread_binding, stmt.annotations, stmt.step, stmt.span,
    )  # fmt: skip


def _entered(stmt: Any, loop: tuple[Any, int], func: tirx.PrimFunc, found: _Marked) -> _Marked:
    made = _Marked(found.block, found.weights, list(found.passes), list(found.steps))
    notes = stmt.annotations
    if WEIGHTS_BLOCK in notes:
        made.block = loop
        made.weights = _weights(func, loop[1], int(notes[WEIGHTS_BLOCK]))
    elif WEIGHTS_PASS in notes:
        made.passes.append(loop)
    elif WEIGHTS_STEP in notes:
        made.steps.append(loop)
    return made


def _weights(func: tirx.PrimFunc, blocks: int, elements: int) -> Any:
    """The parameter of `blocks` times `elements` values."""
    fitting = [
        p
        for p in func.params
        if int(p.shape[0]) == blocks and math.prod(int(d) for d in p.shape[1:]) == elements
    ]
    return fitting[0] if len(fitting) == 1 else None


def _prefetch(place: _Marked) -> Any:
    """Fetch a part of the next block to the first-level cache; past the last block it does nothing.

    The parts are equal steps, one per round of the innermost loop; several may fall on one line.
    """
    assert place.block is not None
    shape = [int(d) for d in place.weights.shape]
    rounds = [*place.passes, *place.steps]
    count = math.prod(extent for _, extent in rounds)
    part = -(-math.prod(shape[1:]) // count)
    index: Any = tirx.const(0, "int64")
    for var, extent in rounds:
        index = index * extent + var
    target = [place.block[0] + 1, *[0] * (len(shape) - 2), index * part]
    address = tirx.address_of(tirx.BufferLoad(place.weights, target))
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, 0, 3, 1))
