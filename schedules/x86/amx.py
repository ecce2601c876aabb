"""Products over AMX tiles: convolutions and dense layers in int8 and bfloat16."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize, Schedule

from lepton_tvm.kernels.amx_tiles import AmxShape
from lepton_tvm.kernels.notes import Form
from lepton_tvm.schedules.base import Choices, new_schedule
from lepton_tvm.schedules.cpu.anchor import Anchor, find_anchor
from lepton_tvm.schedules.x86.amx_entry import copy_nest, in_shares, permission, with_tiles
from lepton_tvm.schedules.x86.amx_nest import Epilogue, block_nest
from lepton_tvm.targets import Target

__all__ = ["AmxProduct"]

# Estimated cycles below which a second thread costs more than it brings: some 6 microseconds.
_WORTH_A_THREAD = 12_000
# Multiply-adds per cycle of the tile unit, and cycles of the epilogue per value.
_TILE_RATE, _STORE_RATE = 1024, 0.5
# Shares of the work per core: more of them balance, each configures the tiles once.
_SHARES = 4


@dataclass(frozen=True)
class AmxProduct:
    """Template for reductions that were given a geometry of AMX tiles.

    Order: share of the work (one thread: permission before, configuration and release inside), row
    blocks and column blocks, then the reduction with the sums in tile registers, which are stored
    once and go through the fused epilogue as vectors. Either rows or columns are the outer loop,
    whichever reads fewer bytes again, as for `Matmul`. With columns outside, the weights of the
    next block are fetched while this one is multiplied.
    """

    name: str = "x86.amx"
    groups: ClassVar[tuple[str, ...]] = ("conv2d", "matmul")

    def apply(self, func: tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        if not target.level.amx:
            return None
        sch = new_schedule(func)
        anchor = find_anchor(sch, "conv2d", Form.AMX) or find_anchor(sch, "matmul", Form.AMX)
        if anchor is None or anchor.notes.amx_tiles is None:
            return None
        shape = AmxShape.from_json(anchor.notes.amx_tiles)
        epilogue = _epilogue(sch, anchor, shape)
        source = _source(sch, anchor)
        if epilogue is None or not any(source.same_as(p) for p in func.params):
            return None
        body = _nest(sch, anchor, shape, source, epilogue, target, choices)
        root = SBlock([], [], [], "root", body)
        made = sch.mod["main"].with_body(SBlockRealize([], True, root))
        return new_schedule(made)


def _epilogue(sch: Schedule, anchor: Anchor, shape: AmxShape) -> Epilogue | None:
    """The storing block, if it stores one value for each sum."""
    store = sch.get(anchor.store)
    extents = tuple(int(v.dom.extent) for v in store.iter_vars)
    if not isinstance(store.body, tirx.BufferStore) or extents != (*shape.extents, shape.columns):
        return None
    sums = sch.get(anchor.reduction).writes[0].source
    return Epilogue(tuple(v.var for v in store.iter_vars), store.body, sums)


def _source(sch: Schedule, anchor: Anchor) -> tirx.Buffer:
    """The activations before any copy."""
    reader = anchor.reduction if anchor.pad is None else anchor.pad
    return sch.get(reader).reads[0].source


def _nest(
    sch: Schedule,
    anchor: Anchor,
    s: AmxShape,
    source: tirx.Buffer,
    epilogue: Epilogue,
    target: Target,
    choices: Choices,
) -> tirx.Stmt:
    item = 4 // s.dot
    weight = sch.get(anchor.reduction).reads[1].source
    cycles = s.macs / _TILE_RATE + math.prod(s.extents) * s.columns * _STORE_RATE
    parallel = target.cores > 1 and cycles >= _WORTH_A_THREAD
    made = [permission()]
    if s.copy is not None:
        kind = "uint8" if item == 1 else "uint16"
        copy = tirx.decl_buffer((s.images * s.copy.size,), kind, "padded", data_alignment=64)
        made += [tirx.AllocBuffer(copy), copy_nest(s, source, copy, item, parallel)]
        source = copy

    rows, columns = s.images * s.row_blocks, s.column_blocks
    columns_out = choices.pick(
        sch, "column_blocks_outermost", [0, 1], _columns_outermost(s, target.cores, parallel)
    )
    outer, inner = (columns, rows) if columns_out else (rows, columns)
    # with more row blocks than lines in a step, multiplying takes far longer than fetching
    prefetch = columns_out and columns > 1 and rows <= s.step // s.dot * s.column_tiles
    prefetch = bool(prefetch and choices.pick(sch, "prefetch_weights", [0, 1], 1))
    most = min(outer, target.cores * _SHARES) if parallel else 1
    counts = sorted({min(outer, n) for n in (1, target.cores, most, outer)})
    shares = choices.pick(sch, "shares", counts, most)

    def share(first: tirx.Expr, end: tirx.Expr) -> tirx.Stmt:
        return with_tiles(s, lambda sums: nest(first, end, sums))

    def nest(first: tirx.Expr, end: tirx.Expr, sums: tirx.Buffer) -> tirx.Stmt:
        o, i = tirx.Var("outer", "int32"), tirx.Var("inner", "int32")
        row, column = (i, o) if columns_out else (o, i)
        block = block_nest(s, source, weight, sums, epilogue, row, column, prefetch)
        inside = tirx.For(i, 0, inner, tirx.ForKind.SERIAL, block)
        return tirx.For(o, first, end - first, tirx.ForKind.SERIAL, inside)

    made.append(in_shares(outer, shares, parallel, share))
    return tirx.SeqStmt(made)


def _columns_outermost(s: AmxShape, cores: int, parallel: bool) -> int:
    """Whether the smaller operand, which is read again for each outer block, is the rows."""
    rows = s.images * s.row_blocks
    weights = math.prod(s.weight_shape)
    activations = s.images * s.lines * s.positions * math.prod(s.taps) * s.depth // s.taps[0]
    wanted = weights > activations
    if parallel and (s.column_blocks if wanted else rows) < cores:
        wanted = s.column_blocks > rows
    return int(wanted)
