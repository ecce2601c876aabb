"""Depthwise convolution: one filter per channel, vectorised over channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from lepton_tvm.ir.bfloat16 import element_type, widened
from lepton_tvm.ir.graph import Array
from lepton_tvm.ir.kernels.conv2d import ConvShape
from lepton_tvm.ir.kernels.dot import in_words

__all__ = ["depthwise_conv2d", "pack_depthwise_weight"]


def pack_depthwise_weight(weight: Array, shape: ConvShape) -> Array:
    """HWIO weights [KH, KW, 1, C] -> [KH, KW, C], or [KH/dot, KW, C, dot] for the integer form."""
    kh, kw = shape.kernel
    plain = weight.reshape(kh, kw, shape.channels)
    if shape.dot == 1:
        return np.ascontiguousarray(plain)
    return np.ascontiguousarray(in_words(plain, 0, shape.dot))


def depthwise_conv2d(
    x: te.Tensor, w: te.Tensor, shape: ConvShape, tile: dict[str, int]
) -> te.Tensor:
    """x [N, H, W, C], w as packed above -> [N, OH, OW, C], float32, or int32 for uint8.

    bfloat16 activations are widened by the copy that pads them; the weights are float32 then.

    Integer form: a byte product needs its `dot` factors side by side, and a depthwise filter has
    only one input channel, so `dot` rows of the image are interleaved first: stage `pad` packs
    `dot` vertically neighbouring pixels of a channel into one 32-bit word (and pads). One such row
    serves all columns of the filter.
    """
    return _float(x, w, shape, tile) if shape.dot == 1 else _integer(x, w, shape, tile)


def _float(x: te.Tensor, w: te.Tensor, s: ConvShape, tile: dict[str, int]) -> te.Tensor:
    top, left, bottom, right = s.padding
    source = x
    narrow = element_type(x) == "bfloat16"
    if narrow or any(s.padding) or s.out_width_padded != s.out_width:
        source = te.compute(
            (
                s.batch,
                s.height + top + bottom,
                max(s.width_read, s.width + left + right),
                s.channels,
            ),
            lambda n, h, w_, c: tirx.if_then_else(
                tirx.all(h >= top, h < top + s.height, w_ >= left, w_ < left + s.width),
                widened(x[n, h - top, w_ - left, c]) if narrow else x[n, h - top, w_ - left, c],
                tirx.const(s.pad_value, "float32"),
            ),
            name="pad",
        )
    rh = te.reduce_axis((0, s.kernel[0]), "rh")
    rw = te.reduce_axis((0, s.kernel[1]), "rw")

    def term(n: Any, h: Any, w_: Any, c: Any) -> Any:
        row = h * s.strides[0] + rh * s.dilation[0]
        column = w_ * s.strides[1] + rw * s.dilation[1]
        return te.sum(source[n, row, column, c] * w[rh, rw, c], axis=[rh, rw])

    return _stored(s, term, {"lepton.operand": element_type(x), **tile})


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
