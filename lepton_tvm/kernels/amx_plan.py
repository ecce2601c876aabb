"""Chooses how a convolution or a product uses the tile registers, by estimated cycles.

The figures are Intel's for Sapphire Rapids (optimization manual, chapter on AMX): an instruction
over tiles takes one cycle per line of the left tile and answers after 52, two lines of 64 bytes
are loaded per cycle from the first-level cache and three in four cycles from the second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lepton_tvm.kernels.amx_tiles import LANES, AmxShape, LineCopy
from lepton_tvm.kernels.conv2d import ConvShape

__all__ = ["TilePlan", "conv2d_geometries", "plan_conv2d", "plan_matmul", "tilings"]

_LINES = 16
_LATENCY = 52
# Cycles per line of 64 bytes: from the first-level cache, across two of its lines, from the second.
_NEAR, _SPLIT, _FAR = 0.5, 1.0, 1.33
_NEAR_BYTES = 32 * 1024
# Cycles of requantizing and storing 16 sums, of finding one position's place in a padded line, and
# of a kernel's permission, configuration and release.
_EPILOGUE, _PLACE, _ENTRY = 6, 4, 800
# Multiply-adds per cycle that the vector templates reach: 0.7 of two full registers' worth, by
# how many of them an instruction adds per lane.
_VECTOR_RATE = {4: 0.7 * 2 * 16 * 4, 2: 0.7 * 2 * 16 * 2}
_COPY_RATE = 32
# Row tiles and column tiles of one loop body: their sums leave registers for the operands.
_BLOCKS = ((2, 2), (1, 4), (4, 1), (1, 3), (3, 1), (1, 2), (2, 1), (1, 1))


@dataclass(frozen=True)
class TilePlan:
    """A geometry, and the estimated cycles with tiles and with the vector template."""

    shape: AmxShape
    cycles: float
    vector_cycles: float

    @property
    def pays(self) -> bool:
        """Whether tiles are expected to be faster than vectors."""
        return self.cycles < self.vector_cycles


def plan_matmul(leading: tuple[int, ...], depth: int, columns: int, dot: int) -> TilePlan:
    """The plan of [*leading, depth] x [depth, columns]; `dot` 4 for bytes, 2 for bfloat16."""
    step, rows = _step(depth, dot), math.prod(leading)
    plain = AmxShape(
        extents=leading, images=1, lines=1, positions=rows, columns=columns, depth=depth,
        image_stride=rows * depth, line_stride=0, row_stride=depth,
        taps=(1, 1), tap_line=0, tap_column=0, dilation=1, pitch=0, dot=dot, step=step,
        tile_rows=1, row_tiles=1, column_tiles=1, macs=rows * depth * columns,
    )  # fmt: skip
    if step > depth:
        copy = LineCopy(rows, depth, 1, rows, step)
        plain = replace(plain, copy=copy, row_stride=step, image_stride=copy.size)
    return _best([plain])


def plan_conv2d(shape: ConvShape, dot: int) -> TilePlan:
    """The plan of an ungrouped convolution; `dot` as above, the one of `shape` is not looked at."""
    return _best(conv2d_geometries(shape, dot))


def conv2d_geometries(shape: ConvShape, dot: int) -> list[AmxShape]:
    """The ways to count the positions of a convolution, still to be tiled.

    Either tiles stay within image lines, or the positions of all lines are counted through over
    the padded width, which fills tiles where lines are short and computes a few columns too many.
    """
    shape = replace(shape, dot=dot)
    return [_by_line(shape), _counted_through(shape)]


def tilings(s: AmxShape) -> Iterator[AmxShape]:
    """`s` with every block of tiles that its extents can use."""
    for row_tiles, column_tiles in _BLOCKS:
        if (column_tiles - 1) * LANES >= s.columns:
            continue
        tiles = -(-s.positions // _LINES)
        if s.lines == 1:
            tiles = -(-s.positions // (_LINES * row_tiles)) * row_tiles
        rows = -(-s.positions // tiles)
        if row_tiles > 1 and (row_tiles - 1) * rows >= s.lines * s.positions:
            continue
        yield replace(s, tile_rows=rows, row_tiles=row_tiles, column_tiles=column_tiles)


def _by_line(s: ConvShape) -> AmxShape:
    shape = _convolution(s, _copy(s, phases=1, unit=1))
    return replace(
        shape, lines=s.out_height, positions=s.out_width, line_stride=s.strides[0] * shape.tap_line
    )


def _counted_through(s: ConvShape) -> AmxShape:
    shape = _convolution(s, _copy(s, phases=s.strides[0], unit=s.strides[1]))
    pitch = shape.tap_line // shape.row_stride
    return replace(shape, positions=(s.out_height - 1) * pitch + s.out_width, pitch=pitch)


def _convolution(s: ConvShape, copy: LineCopy | None) -> AmxShape:
    """Everything but the way of counting positions."""
    line = copy.length if copy else s.width * s.channels
    kh, kw = s.kernel
    # filter columns without a gap are one run of elements
    joined = s.dilation[1] == 1
    depth = kw * s.channels if joined else s.channels
    return AmxShape(
        extents=(s.batch, s.out_height, s.out_width), images=s.batch, lines=1, positions=1,
        columns=s.out_channels, depth=depth,
        image_stride=copy.size if copy else s.height * line, line_stride=0,
        row_stride=s.strides[1] * s.channels,
        taps=(kh, 1) if joined else (kh, kw),
        tap_line=line, tap_column=s.dilation[1] * s.channels, dilation=s.dilation[0], pitch=0,
        dot=s.dot, step=_step(depth, s.dot), tile_rows=1, row_tiles=1, column_tiles=1,
        macs=s.macs, copy=copy,
    )  # fmt: skip


def _copy(s: ConvShape, phases: int, unit: int) -> LineCopy | None:
    """The padding copy, with lines of a multiple of `unit` pixels; None where none is needed."""
    top, left, bottom, right = s.padding
    depth = s.channels * (s.kernel[1] if s.dilation[1] == 1 else 1)
    slack = max(0, _step(depth, s.dot) - depth)
    width = -(-(s.width + left + right) // unit) * unit
    if not any(s.padding) and phases == 1 and width == s.width and not slack:
        return None
    return LineCopy(
        s.height, s.width * s.channels, phases, -(-(s.height + top + bottom) // phases),
        width * s.channels, top, left * s.channels, slack, s.pad_value,
    )  # fmt: skip


def _step(depth: int, dot: int) -> int:
    """Elements per instruction: an equal share of as few steps as possible."""
    steps = -(-depth // (LANES * dot))
    return -(-depth // (steps * dot)) * dot


def _best(shapes: list[AmxShape]) -> TilePlan:
    tiled = [t for s in shapes for t in tilings(s)]
    best = min(tiled, key=_cycles)
    return TilePlan(best, _cycles(best), _vector_cycles(best))


def _cycles(s: AmxShape) -> float:
    size = 4 // s.dot
    left, right = s.row_tiles * s.tile_rows, s.column_tiles * (s.step // s.dot)
    steps = math.prod(s.taps) * s.steps
    aligned = s.row_stride * size % 64 == 0 and s.step * size % 64 == 0
    weights = math.prod(s.weight_shape) * size
    loads = left * (_NEAR if aligned else _SPLIT) + right * (
        _NEAR if weights <= _NEAR_BYTES else _FAR
    )
    multiply = s.row_tiles * s.column_tiles * s.tile_rows
    place = _PLACE if s.pitch else 0
    stored = left * (s.column_tiles * (1 + _EPILOGUE) + place)
    blocks = s.images * s.row_blocks * s.column_blocks
    copied = s.images * s.copy.size * size / _COPY_RATE if s.copy else 0
    return blocks * (steps * max(multiply, loads, _LATENCY) + stored) + copied + _ENTRY


def _vector_cycles(s: AmxShape) -> float:
    size = 4 // s.dot
    lanes = -(-s.columns // LANES) * LANES
    depth = math.prod(s.taps) * (-(-s.depth // s.dot) * s.dot)
    macs = s.macs / (s.columns * math.prod(s.taps) * s.depth) * lanes * depth
    places = macs / (lanes * depth)
    weights = lanes * depth * size
    # one pass over the weights for every few rows
    lines = weights / 64 * math.ceil(places / 8) * (_NEAR if weights <= _NEAR_BYTES else _FAR)
    return max(macs / _VECTOR_RATE[s.dot], lines) + places * lanes / LANES * _EPILOGUE
