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

from lepton_tvm.kernels.amx_tiles import LANES, AmxShape
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
    s: AmxShape,
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
    made.append(_Products(s, source, weight, starts, columns, ahead).nest())
    for register in range(s.sum_registers):
        row, column = divmod(register, s.column_tiles)
        at = pointer(sums, 4 * (row * s.tile_rows * s.block + column * LANES))
        line = integer(s.block * 4, "int64")
        made.append(tile_call("tilestored64", _register(register), at, line))
    made.append(_Stores(s, sums, epilogue, image, block, columns).nest())
    return sequence(made)


@dataclass(frozen=True)
class _Ahead:
    """Fetches the weights of the next column block during `passes` passes over this one's."""

    weight: tirx.Buffer
    number: Expr
    passes: int

    def lines(self, s: AmxShape, step: Expr) -> list[Stmt]:
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


@dataclass(frozen=True)
class _Products:
    """Loads and multiplies, over all taps and steps of the depth.

    `starts` are the offsets of the row tiles in `source`. What only one instruction reads shares
    the registers that are left; the CPU renames them.
    """

    shape: AmxShape
    source: tirx.Buffer
    weight: tirx.Buffer
    starts: list[Expr]
    columns: Expr
    ahead: _Ahead | None

    def nest(self) -> Stmt:
        """The loops over the taps of the filter and the steps of the depth."""
        high, wide = self.shape.taps
        return loop("rh", high, lambda rh: loop("rw", wide, lambda rw: self._depth(rh, rw)))

    def _depth(self, rh: Expr, rw: Expr) -> Stmt:
        return loop("rs", self.shape.steps, lambda rs: self._step(rh, rw, rs))

    def _step(self, rh: Expr, rw: Expr, rs: Expr) -> Stmt:
        """All products of one step: each tile of rows by each tile of columns."""
        shape = self.shape
        offset = shape.offset(rh, rw) + shape.start(rs)
        step = ((self.columns * shape.taps[0] + rh) * shape.taps[1] + rw) * shape.steps + rs
        made = self.ahead.lines(shape, step) if self.ahead is not None else []
        for row in range(shape.row_tiles):
            made.append(self._load_rows(row, offset))
            for column in range(shape.column_tiles):
                if row == 0:
                    made.append(self._load_columns(column, step))
                numbers = (row * shape.column_tiles + column, self._left(row), self._right(column))
                made.append(tile_call(_DOTS[shape.dot], *map(_register, numbers)))
        return sequence(made)

    def _load_rows(self, row: int, offset: Expr) -> Stmt:
        item = 4 // self.shape.dot
        at = pointer(self.source, (self.starts[row] + offset) * item)
        stride = integer(self.shape.row_stride * item, "int64")
        return tile_call("tileloadd64", _register(self._left(row)), at, stride)

    def _load_columns(self, column: int, step: Expr) -> Stmt:
        size = self.shape.step // self.shape.dot * LANES * 4
        at = pointer(self.weight, (step * self.shape.column_tiles + column) * size)
        return tile_call("tileloadd64", _register(self._right(column)), at, integer(64, "int64"))

    def _left(self, row: int) -> int:
        """The register of a tile of rows."""
        return self.shape.sum_registers + row % self.shape.left_registers

    def _right(self, column: int) -> int:
        """The register of a tile of columns."""
        shape = self.shape
        return shape.sum_registers + shape.left_registers + column % shape.right_registers


@dataclass(frozen=True)
class _Stores:
    """Takes the sums of one block through the epilogue, as vectors.

    `image`, `block` and `columns` say which block it is.
    """

    shape: AmxShape
    sums: tirx.Buffer
    epilogue: Epilogue
    image: Expr
    block: Expr
    columns: Expr

    def nest(self) -> Stmt:
        """The loop over the tiles of rows."""
        return loop("tile", self.shape.row_tiles, self._tile)

    def _tile(self, number: Expr) -> Stmt:
        """The rows of one tile that no other tile stores, if it lies inside the image."""
        shape = self.shape
        index = self.block * shape.row_tiles + number
        line, of_line = index // shape.line_tiles, index % shape.line_tiles
        first = _first_row(shape, of_line)
        skipped = of_line * shape.tile_rows - first if shape.positions % shape.tile_rows else 0
        nest = loop(
            "row", shape.tile_rows,
            lambda row: self._position(line, first + row, number * shape.tile_rows + row),
            first=skipped,
        )  # fmt: skip
        if shape.lines * shape.line_tiles % shape.row_tiles == 0:
            return nest
        return tirx.IfThenElse(index < shape.lines * shape.line_tiles, nest, None)

    def _position(self, line: Expr, position: Expr, row: Expr) -> Stmt:
        """One position of a line; columns that only padding fills are not stored."""
        shape = self.shape
        if not shape.pitch:
            return self._row(_unfolded(shape, self.image, line, position), row)
        var, column = tirx.Var("line", "int32"), tirx.Var("column", "int32")
        binds = [tirx.Bind(var, position // shape.pitch), tirx.Bind(column, position % shape.pitch)]
        stored = self._row([self.image, var, column], row)
        kept = tirx.IfThenElse(column < shape.extents[-1], stored, None)
        return sequence([*binds, kept])

    def _row(self, index: list[Expr], row: Expr) -> Stmt:
        """All columns of a row, of which the last block may have fewer."""
        shape = self.shape
        rest = shape.columns % shape.block
        if not rest:
            return self._vectors(index, row, shape.block)
        if shape.column_blocks == 1:
            return self._vectors(index, row, rest)
        whole = self.columns < shape.column_blocks - 1
        return tirx.IfThenElse(
            whole, self._vectors(index, row, shape.block), self._vectors(index, row, rest)
        )

    def _vectors(self, index: list[Expr], row: Expr, valid: int) -> Stmt:
        starts = range(0, valid, LANES)
        return sequence([self._vector(index, row, at, min(LANES, valid - at)) for at in starts])

    def _vector(self, index: list[Expr], row: Expr, at: int, lanes: int) -> Stmt:
        return loop(
            "lane", lanes,
            lambda lane: self.epilogue.at(
                [*index, self.columns * self.shape.block + at + lane], self.sums[row, at + lane]
            ),
            kind=tirx.ForKind.VECTORIZED,
        )  # fmt: skip


def _unfolded(s: AmxShape, image: Expr, line: Expr, position: Expr) -> list[Expr]:
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


def _first_row(s: AmxShape, tile: Expr) -> Expr:
    """Where a tile of a line starts: the last one ends with the line."""
    if s.positions % s.tile_rows == 0:
        return tile * s.tile_rows
    return tirx.min(tile * s.tile_rows, s.positions - s.tile_rows)


def _register(number: int) -> Expr:
    return integer(number, "int8")
