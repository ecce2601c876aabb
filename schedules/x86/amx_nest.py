"""The loop nest of one product over AMX tiles, written directly: tile registers are no buffers.

LLVM's tile intrinsics name their registers by number, so a schedule cannot allocate them. The nest
is built here from the geometry; the epilogue is the fused function's own storing block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from lepton_tvm.kernels.amx_tiles import LANES, TileShape
from lepton_tvm.schedules.statements import Expr, Stmt, integer, loop, pointer, run, sequence
from lepton_tvm.schedules.x86.amx_entry import tile_call

__all__ = ["Epilogue", "block_nest"]

_DOTS = {4: "tdpbusd", 2: "tdpbf16ps"}


@dataclass(frozen=True)
class Epilogue:
    """The storing block: its iterators (rows then column), body, and the sums that it reads."""

    iterators: tuple[Any, ...]
    body: Stmt
    sums: tirx.Buffer

    def at(self, index: list[Expr], value: Expr) -> Stmt:
        """The body for one place, with `value` as the sum."""
        places = list(zip(self.iterators, index, strict=True))

        def replaced(var: Any) -> Any:
            return next((i for v, i in places if v.same_as(var)), var)

        def loaded(load: Any) -> Any:
            return value if load.source.same_as(self.sums) else load

        return tvm_ffi.structural_map(
            self.body, [(tirx.Var, replaced), (tvm.ir.TensorLoad, loaded)]
        )


def block_nest(
    s: TileShape,
    source: tirx.Buffer,
    weight: tirx.Buffer,
    sums: tirx.Buffer,
    epilogue: Epilogue,
    rows: Expr,
    columns: Expr,
    prefetch: bool,
) -> Stmt:
    """One block of tiles: row block `rows` (over all images) and column block `columns`.

    `prefetch`: fetch a part of the next column block's weights in each step, so that they are there
    after all row blocks.
    """
    image, block = rows // s.row_blocks, rows % s.row_blocks
    starts, made = [], []
    last = s.lines * s.line_tiles - 1
    for tile in range(s.row_tiles):
        number = block * s.row_tiles + tile
        if (last + 1) % s.row_tiles:
            number = tirx.min(number, last)
        line, first = number // s.line_tiles, _first_row(s, number % s.line_tiles)
        start = image * s.image_stride + line * s.line_stride + first * s.row_stride
        var = tirx.Var(f"row_{tile}", "int32")
        made.append(tirx.Bind(var, tirx.convert(start)))
        starts.append(var)
    made += [tile_call("tilezero", _register(r)) for r in range(s.sum_registers)]
    ahead = _Ahead(weight, rows, s.images * s.row_blocks) if prefetch else None
    made.append(_reduction(s, source, weight, starts, columns, ahead))
    for register in range(s.sum_registers):
        row, column = divmod(register, s.column_tiles)
        at = pointer(sums, 4 * (row * s.tile_rows * s.block + column * LANES))
        line = integer(s.block * 4, "int64")
        made.append(tile_call("tilestored64", _register(register), at, line))
    made.append(_stores(s, sums, epilogue, image, block, columns))
    return sequence(made)


@dataclass(frozen=True)
class _Ahead:
    """Fetches the weights of the next column block during `passes` passes over this one's."""

    weight: tirx.Buffer
    number: Expr
    passes: int

    def lines(self, s: TileShape, step: Expr) -> list[Stmt]:
        """A share of the lines of 64 bytes that `step` of the next block will load.

        Into the second-level cache; past the last block it does nothing.
        """
        lines = s.step // s.dot * s.column_tiles
        share = -(-lines // self.passes)
        made = []
        for line in range(share):
            place = (step + math.prod(s.taps) * s.steps) * lines + self.number * share + line
            at = pointer(self.weight, place * 64)
            made.append(run(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", at, 0, 2, 1)))
        return made


def _reduction(
    s: TileShape,
    source: tirx.Buffer,
    weight: tirx.Buffer,
    starts: list[Expr],
    columns: Expr,
    ahead: _Ahead | None,
) -> Stmt:
    """Load and multiply, over all taps and steps of the depth.

    What only one instruction reads shares the registers that are left; the CPU renames them.
    """
    item, size = 4 // s.dot, s.step // s.dot * LANES * 4
    stride = integer(s.row_stride * item, "int64")

    def left(tile: int) -> int:
        return s.sum_registers + tile % s.left_registers

    def right(tile: int) -> int:
        return s.sum_registers + s.left_registers + tile % s.right_registers

    def update(rh: Expr, rw: Expr, rs: Expr) -> Stmt:
        offset = s.offset(rh, rw) + s.start(rs)
        step = ((columns * s.taps[0] + rh) * s.taps[1] + rw) * s.steps + rs
        made = ahead.lines(s, step) if ahead is not None else []
        for row in range(s.row_tiles):
            at = pointer(source, (starts[row] + offset) * item)
            made.append(tile_call("tileloadd64", _register(left(row)), at, stride))
            for column in range(s.column_tiles):
                if row == 0:
                    at = pointer(weight, (step * s.column_tiles + column) * size)
                    made.append(
                        tile_call("tileloadd64", _register(right(column)), at, integer(64, "int64"))
                    )
                numbers = (row * s.column_tiles + column, left(row), right(column))
                made.append(tile_call(_DOTS[s.dot], *map(_register, numbers)))
        return sequence(made)

    return loop(
        "rh", s.taps[0],
        lambda rh: loop(
            "rw", s.taps[1], lambda rw: loop("rs", s.steps, lambda rs: update(rh, rw, rs))
        ),
    )  # fmt: skip


def _stores(
    s: TileShape, sums: tirx.Buffer, epilogue: Epilogue, image: Expr, block: Expr, columns: Expr
) -> Stmt:
    width = s.extents[-1] if s.pitch else 0

    def tile(number: Expr) -> Stmt:
        index = block * s.row_tiles + number
        line, of_line = index // s.line_tiles, index % s.line_tiles
        first = _first_row(s, of_line)
        skipped = of_line * s.tile_rows - first if s.positions % s.tile_rows else 0
        nest = loop(
            "row", s.tile_rows, lambda row: place(line, first + row, number * s.tile_rows + row),
            first=skipped,
        )  # fmt: skip
        if s.lines * s.line_tiles % s.row_tiles == 0:
            return nest
        return tirx.IfThenElse(index < s.lines * s.line_tiles, nest, None)

    def place(line: Expr, position: Expr, row: Expr) -> Stmt:
        if not s.pitch:
            return row_of(_unfolded(s, image, line, position), row)
        var, column = tirx.Var("line", "int32"), tirx.Var("column", "int32")
        binds = [tirx.Bind(var, position // s.pitch), tirx.Bind(column, position % s.pitch)]
        kept = tirx.IfThenElse(column < width, row_of([image, var, column], row), None)
        return sequence([*binds, kept])

    def row_of(index: list[Expr], row: Expr) -> Stmt:
        def vector(at: int, lanes: int) -> Stmt:
            return loop(
                "lane", lanes,
                lambda lane: epilogue.at(
                    [*index, columns * s.block + at + lane], sums[row, at + lane]
                ),
                kind=tirx.ForKind.VECTORIZED,
            )  # fmt: skip

        def vectors(valid: int) -> Stmt:
            return sequence([vector(at, min(LANES, valid - at)) for at in range(0, valid, LANES)])

        rest = s.columns % s.block
        if not rest:
            return vectors(s.block)
        if s.column_blocks == 1:
            return vectors(rest)
        whole = columns < s.column_blocks - 1
        return tirx.IfThenElse(whole, vectors(s.block), vectors(rest))

    return loop("tile", s.row_tiles, tile)


def _unfolded(s: TileShape, image: Expr, line: Expr, position: Expr) -> list[Expr]:
    """The output's row index of a position."""
    extents = s.extents
    if s.images > 1 or s.lines > 1:
        return [image, line, position]
    index = [integer(0)] * len(extents)
    wide = [axis for axis, extent in enumerate(extents) if extent > 1]
    for axis in reversed(wide[1:]):
        index[axis] = position % extents[axis]
        position = position // extents[axis]
    if wide:
        index[wide[0]] = position
    return index


def _first_row(s: TileShape, tile: Expr) -> Expr:
    """Where a tile of a line starts: the last one ends with the line."""
    if s.positions % s.tile_rows == 0:
        return tile * s.tile_rows
    return tirx.min(tile * s.tile_rows, s.positions - s.tile_rows)


def _register(number: int) -> Expr:
    return integer(number, "int8")
