"""Depthwise convolution: one filter per channel, vectorised over channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from lepton_tvm.ir.bfloat16 import element_type, widened
from lepton_tvm.ir.graph import Array
from lepton_tvm.ir.kernels.conv2d import ConvShape
from lepton_tvm.ir.kernels.dot import in_words

__all__ = ["MOST_TILES", "depthwise_conv2d", "pack_depthwise_weight", "reads_in_place"]

# Tiles of a line, each of which becomes code of its own: a kilobyte for a 3x3 filter.
MOST_TILES = 16


def pack_depthwise_weight(weight: Array, shape: ConvShape) -> Array:
    """HWIO weights [KH, KW, 1, C] -> [KH + 1, KW, C], or [KH/dot, KW, C, dot] as integers.

    The float form ends with a row of zeros, which stands for the padding above and below.
    """
    kh, kw = shape.kernel
    plain = weight.reshape(kh, kw, shape.channels)
    if shape.dot == 1:
        return np.ascontiguousarray(np.pad(plain, ((0, 1), (0, 0), (0, 0))))
    return np.ascontiguousarray(in_words(plain, 0, shape.dot))


def depthwise_conv2d(
    x: te.Tensor, w: te.Tensor, shape: ConvShape, tile: dict[str, int]
) -> te.Tensor:
    """x [N, H, W, C], w as packed above -> [N, OH, OW, C], float32, or int32 for uint8.

    bfloat16 activations are widened as they are read; the weights are float32 then.

    Integer form: a byte product needs its `dot` factors side by side, and a depthwise filter has
    only one input channel, so `dot` rows of the image are interleaved first: stage `pad` packs
    `dot` vertically neighbouring pixels of a channel into one 32-bit word (and pads). One such row
    serves all columns of the filter.
    """
    return _float(x, w, shape, tile) if shape.dot == 1 else _integer(x, w, shape, tile)


def _float(x: te.Tensor, w: te.Tensor, s: ConvShape, tile: dict[str, int]) -> te.Tensor:
    top, left, bottom, _ = s.padding
    rows_beyond = top > 0 or bottom > 0
    columns_beyond = left > 0 or s.width_read - left > s.width
    source = x
    if not reads_in_place(s) and (rows_beyond or columns_beyond):
        source = _padded(x, s)
        top = left = 0
        rows_beyond = columns_beyond = False
    rh = te.reduce_axis((0, s.kernel[0]), "rh")
    rw = te.reduce_axis((0, s.kernel[1]), "rw")

    def term(n: Any, h: Any, w_: Any, c: Any) -> Any:
        row = h * s.strides[0] + rh * s.dilation[0] - top
        column = w_ * s.strides[1] + rw * s.dilation[1] - left
        tap = rh
        if rows_beyond:
            # a line outside of the image is any line times the zeros behind the filter
            inside = tirx.all(row >= 0, row < s.height)
            tap = tirx.Select(inside, rh, tirx.const(s.kernel[0], "int32"))
            row = tirx.max(tirx.min(row, s.height - 1), 0)
        product = _widened(source[n, row, column, c]) * w[tap, rw, c]
        if columns_beyond:
            # decided when the loop over the tiles of a line is unrolled
            edge = tirx.all(column >= 0, column < s.width)
            product = tirx.if_then_else(edge, product, tirx.const(0, "float32"))
        return te.sum(product, axis=[rh, rw])

    return _stored(s, term, {"lepton.operand": element_type(x), **tile})


def reads_in_place(s: ConvShape) -> bool:
    """Whether the float kernel reads the image itself instead of a padded copy.

    A copy costs a third to a half of the time, but every tile of a line becomes code of its own.
    """
    return s.out_width_padded // s.rows <= MOST_TILES


def _padded(x: te.Tensor, s: ConvShape) -> te.Tensor:
    top, left, bottom, right = s.padding
    columns = max(s.width_read, s.width + left + right)
    return te.compute(
        (s.batch, s.height + top + bottom, columns, s.channels),
        lambda n, h, w_, c: tirx.if_then_else(
            tirx.all(h >= top, h < top + s.height, w_ >= left, w_ < left + s.width),
            _widened(x[n, h - top, w_ - left, c]),
            tirx.const(0, "float32"),
        ),
        name="pad",
    )


def _widened(value: Any) -> Any:
    return widened(value) if element_type(value) == "bfloat16" else value


def _integer(x: te.Tensor, w: te.Tensor, s: ConvShape, tile: dict[str, int]) -> te.Tensor:
    top, left, bottom, _ = s.padding
    steps = -(-s.kernel[0] // s.dot)
    bits = 32 // s.dot
    fill = tirx.const(s.pad_value, "int32")

    def pixel(n: Any, row: Any, column: Any, c: Any) -> Any:
        limits = []
        if top or bottom:
            limits += [row >= top, row < top + s.height]
        if left or s.width_read - left > s.width:
            limits += [column >= left, column < left + s.width]
        # an index that is clamped and a mask, not a branch: the copy stays one vector loop
        row_in = tirx.max(tirx.min(row - top, s.height - 1), 0)
        column_in = tirx.max(tirx.min(column - left, s.width - 1), 0)
        value = x[n, row_in, column_in, c].astype("int32")
        if not limits:
            return value
        mask = 0 - tirx.all(*limits).astype("int32")
        kept = tirx.bitwise_and(value, mask)
        return kept if s.pad_value == 0 else kept + tirx.bitwise_and(fill, tirx.bitwise_not(mask))

    def word(n: Any, h: Any, step: Any, column: Any, c: Any) -> Any:
        made = None
        for part in range(s.dot):
            tap = step * s.dot + part
            value = pixel(n, h * s.strides[0] + tap * s.dilation[0], column, c)
            value = tirx.shift_left(value, tirx.const(bits * part, "int32")) if part else value
            made = value if made is None else tirx.bitwise_or(made, value)
        return made

    words = te.compute((s.batch, s.out_height, steps, s.width_read, s.channels), word, name="pad")
    rh = te.reduce_axis((0, steps), "rh")
    rw = te.reduce_axis((0, s.kernel[1]), "rw")
    mask = tirx.const((1 << bits) - 1, "int32")

    def term(n: Any, h: Any, w_: Any, c: Any) -> Any:
        packed = words[n, h, rh, w_ * s.strides[1] + rw * s.dilation[1], c]
        total = None
        for part in range(s.dot):
            shift = tirx.const(bits * part, "int32")
            value = tirx.shift_right(packed, shift) if part else packed
            value = tirx.bitwise_and(value, mask) * w[rh, rw, c, part].astype("int32")
            total = value if total is None else total + value
        return te.sum(total, axis=[rh, rw])

    return _stored(s, term, {"lepton.operand": element_type(x), **tile})


def _stored(s: ConvShape, term: Any, tile: dict[str, Any]) -> te.Tensor:
    extents = (s.batch, s.out_height, s.out_width, s.channels)
    attrs = {"lepton.kernel": "depthwise_conv2d", **tile}
    computed = (s.batch, s.out_height, s.out_width_padded, s.channels)
    acc = te.compute(computed, term, name="conv", attrs=attrs)
    return te.compute(extents, lambda *i: acc[i], name="store")
