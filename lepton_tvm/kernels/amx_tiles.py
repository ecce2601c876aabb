"""Products over two-dimensional tile registers (Intel AMX): geometry, weight packing, loop nest.

A convolution and a dense layer are one thing here: rows at a constant distance in memory, each of
which is multiplied with the weights at a few places (`taps`) by `depth` neighbouring elements.
Channels-last activations load straight into tiles, a filter line of a convolution is one tap,
and no im2col is made.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from lepton_tvm.ir.bfloat16 import element_type
from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.conv2d import copied, product
from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.kernels.register_tile import RegisterTile

__all__ = ["LANES", "TILES", "AmxShape", "LineCopy", "pack_tile_weight", "tile_product"]

#: 32-bit sums in one line of a tile, lines of a tile, and tile registers.
LANES = 16
TILES = 8


@dataclass(frozen=True)
class LineCopy:
    """A copy of the activations, line by line, that pads them; all lengths in elements.

    Line `i` of phase `p` in the copy is line `i * phases + p - top` of the source, with `left`
    elements before it, `length` in all, the rest filled with `value`. Several phases put lines that
    a strided convolution reads one after the other side by side. `slack` elements follow the end.
    """

    source_lines: int
    source_length: int
    phases: int
    lines: int
    length: int
    top: int = 0
    left: int = 0
    slack: int = 0
    value: int = 0

    @property
    def phase_stride(self) -> int:
        """Elements of one phase."""
        return self.lines * self.length

    @property
    def size(self) -> int:
        """Elements of one image's copy."""
        return self.phases * self.phase_stride + self.slack


@dataclass(frozen=True)
class AmxShape:
    """out[i, l, p, k] = sum over taps t and r < depth of
    in[i * image_stride + l * line_stride + p * row_stride + offset(t) + r] * w[t, r, k].

    All strides are in elements. Tiles of `tile_rows` positions do not span lines; `row_tiles` of
    them are computed with `column_tiles` of 16 columns at once. `step` elements of the depth are
    multiplied by one instruction, `dot` per 32-bit sum (4 bytes or 2 bfloat16). The last of
    several steps may reach back over the one before, with zero weights.

    `extents` are the result's dimensions before the columns, `taps` lines and columns of a filter.
    `pitch` is not 0 where the positions of all lines of an image are counted through, over the
    padded width: position = line * pitch + column.
    """

    extents: tuple[int, ...]
    images: int
    lines: int
    positions: int
    columns: int
    depth: int
    image_stride: int
    line_stride: int
    row_stride: int
    taps: tuple[int, int]
    tap_line: int
    tap_column: int
    dilation: int
    pitch: int
    dot: int
    step: int
    tile_rows: int
    row_tiles: int
    column_tiles: int
    macs: int
    copy: LineCopy | None = None

    @property
    def sum_registers(self) -> int:
        """Tile registers that hold sums; the first ones."""
        return self.row_tiles * self.column_tiles

    @property
    def left_registers(self) -> int:
        """Tile registers that hold activations; the next ones."""
        return min(self.row_tiles, TILES - self.sum_registers - 1)

    @property
    def right_registers(self) -> int:
        """Tile registers that hold weights; the last ones."""
        return min(self.column_tiles, TILES - self.sum_registers - self.left_registers)

    @property
    def steps(self) -> int:
        """Instructions over the depth of one tap."""
        return -(-self.depth // self.step)

    @property
    def line_tiles(self) -> int:
        """Row tiles of one line; the last one reaches back where they do not divide it."""
        return -(-self.positions // self.tile_rows)

    @property
    def row_blocks(self) -> int:
        """Groups of `row_tiles` tiles of one image."""
        return -(-self.lines * self.line_tiles // self.row_tiles)

    @property
    def block(self) -> int:
        """Columns that are computed together."""
        return self.column_tiles * LANES

    @property
    def column_blocks(self) -> int:
        """Groups of `column_tiles` tiles over the columns."""
        return -(-self.columns // self.block)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """[blocks, tap lines, tap columns, steps, column tiles, step / dot, 16, dot]."""
        lines = self.step // self.dot
        return (
            self.column_blocks, *self.taps, self.steps, self.column_tiles, lines, LANES, self.dot,
        )  # fmt: skip

    def offset(self, line: Any, column: Any) -> Any:
        """Elements from a position to what the tap (an int or an expression) reads."""
        first = line * self.dilation
        if self.copy is None or self.copy.phases == 1:
            return first * self.tap_line + column * self.tap_column
        phases = self.copy.phases
        phase, rest = first % phases, first // phases
        return phase * self.copy.phase_stride + rest * self.tap_line + column * self.tap_column

    def start(self, step: Any) -> Any:
        """The first element of a depth step (an int or an expression) within its tap."""
        if self.steps == 1:
            return 0 * step
        if self.depth % self.step == 0:
            return step * self.step
        last = self.depth - self.step
        first = step * self.step
        return min(first, last) if isinstance(step, int) else tirx.min(first, last)

    def to_json(self) -> str:
        """For the annotation of the reduction block."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> AmxShape:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        copy = fields.pop("copy")
        fields["taps"], fields["extents"] = tuple(fields["taps"]), tuple(fields["extents"])
        return AmxShape(**fields, copy=LineCopy(**copy) if copy else None)


def pack_tile_weight(weight: Array, shape: AmxShape) -> Array:
    """[tap lines, tap columns, depth, columns] weights -> `shape.weight_shape`, zeros elsewhere."""
    s = shape
    made = np.zeros((*s.taps, s.steps, s.step, s.column_blocks * s.block), weight.dtype)
    done = 0
    for step in range(s.steps):
        first, last = int(s.start(step)), min(int(s.start(step)) + s.step, s.depth)
        made[:, :, step, done - first : last - first, : s.columns] = weight[:, :, done:last]
        done = last
    split = made.reshape(
        *s.taps, s.steps, s.step // s.dot, s.dot, s.column_blocks, s.column_tiles, LANES
    )
    return np.ascontiguousarray(split.transpose(5, 0, 1, 2, 6, 3, 7, 4))


def tile_product(x: te.Tensor, w: te.Tensor, shape: AmxShape, kernel: str) -> te.Tensor:
    """The loop nest, its reduction block annotated with the geometry.

    x: activations in any shape, w as `pack_tile_weight` makes it; the result is int32 or float32 of
    shape [*shape.extents, columns]. Stages: `pad` (only where there is a copy), `product`, `store`.
    """
    s = shape
    source = _copied(x, s) if s.copy else _flat(x)
    axes = [
        te.reduce_axis((0, extent), name)
        for extent, name in zip(
            (*s.taps, s.steps, s.step // s.dot, s.dot), ("rh", "rw", "rs", "rc", "rd"), strict=True
        )
    ]

    def term(i: Any, line: Any, p: Any, k: Any) -> Any:
        rh, rw, rs, rc, rd = axes
        at = line * s.line_stride + p * s.row_stride + s.offset(rh, rw) + s.start(rs)
        tile, lane = k % s.block // LANES, k % LANES
        weight = w[k // s.block, rh, rw, rs, tile, rc, lane, rd]
        return te.sum(product(source(i, at + rc * s.dot + rd), weight), axis=axes)

    block = RegisterTile(s.row_tiles * s.tile_rows, LANES, s.column_tiles)
    notes = KernelNotes(kernel, element_type(x), s.macs, block, s.dot, amx_tiles=s.to_json())
    computed = (s.images, s.lines, s.positions, s.column_blocks * s.block)
    acc = te.compute(computed, term, name="product", attrs=notes.to_attrs())

    def kept(*index: Any) -> Any:
        if s.pitch:
            return acc[index[0], 0, index[1] * s.pitch + index[2], index[3]]
        if s.images > 1 or s.lines > 1:
            return acc[index]
        row = index[0] if len(index) > 1 else tirx.const(0, "int32")
        for extent, part in zip(s.extents[1:], index[1:-1], strict=True):
            row = row * extent + part
        return acc[0, 0, row, index[-1]]

    return te.compute((*s.extents, s.columns), kept, name="store")


def _flat(x: te.Tensor) -> Any:
    """A function (image, element) -> value that reads `x` as if it had one dimension per image."""
    extents = [int(d) for d in x.shape]

    def read(image: Any, element: Any) -> Any:
        index = []
        for extent in reversed(extents[1:]):
            index.append(element % extent)
            element = element // extent
        return x[(image + element, *reversed(index))]

    return read


def _copied(x: te.Tensor, s: AmxShape) -> Any:
    c = s.copy
    assert c is not None
    read = _flat(x)

    def value(image: Any, element: Any) -> Any:
        phase, rest = element // c.phase_stride, element % c.phase_stride
        line, at = rest // c.length * c.phases + phase - c.top, rest % c.length - c.left
        limits = [line >= 0, line < c.source_lines, at >= 0, at < c.source_length]
        if c.slack:
            limits.append(phase < c.phases)
        found = copied(read(image, line * c.source_length + at), dot=4)
        return tirx.if_then_else(tirx.all(*limits), found, tirx.const(c.value, element_type(found)))

    copy = te.compute((s.images, c.size), value, name="pad")
    return lambda image, element: copy[image, element]
