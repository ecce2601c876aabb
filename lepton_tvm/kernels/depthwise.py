"""Depthwise convolution: one filter per channel, vectorised over channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import te, tirx

from lepton_tvm.ir.bfloat16 import element_type, widened
from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.conv2d import ConvShape
from lepton_tvm.kernels.depthwise_int8 import depthwise_int8, pack_depthwise_int8_weight
from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.kernels.register_tile import RegisterTile

__all__ = ["depthwise_conv2d", "pack_depthwise_weight", "reads_in_place"]

# Multiplications that the tiles of a line, each of which is code of its own, may amount to: more of
# them take LLVM seconds.
_MOST_CODE = 1024


def pack_depthwise_weight(weight: Array, shape: ConvShape) -> Array:
    """HWIO weights [KH, KW, 1, C] -> [KH + 1, KW, C], or [KH/dot, KW, C, dot] as integers.

    The float form ends with a row of zeros, which stands for the padding above and below.
    """
    kh, kw = shape.kernel
    plain = weight.reshape(kh, kw, shape.channels)
    if shape.dot == 1:
        return np.ascontiguousarray(np.pad(plain, ((0, 1), (0, 0), (0, 0))))
    return pack_depthwise_int8_weight(weight, shape)


def depthwise_conv2d(x: te.Tensor, w: te.Tensor, shape: ConvShape, tile: RegisterTile) -> te.Tensor:
    """x [N, H, W, C], w as packed above -> [N, OH, OW, C], float32, or int32 for uint8.

    bfloat16 activations are widened as they are read; the weights are float32 then.

    The integer form is `depthwise_int8`.
    """
    form = _float if shape.dot == 1 else depthwise_int8
    return form(x, w, shape, tile)


def _float(x: te.Tensor, w: te.Tensor, s: ConvShape, tile: RegisterTile) -> te.Tensor:
    top, left, bottom, _ = s.padding
    rows_beyond = top > 0 or bottom > 0
    columns_beyond = left > 0 or s.width_read - left > s.width
    source = x
    in_place = reads_in_place(s, tile.vectors)
    if not in_place and (rows_beyond or columns_beyond):
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

    kernel, kind = "depthwise_conv2d", element_type(x)
    notes = KernelNotes(kernel, kind, s.macs, tile, s.dot, unrolled=in_place)
    return _stored(s, term, notes)


def reads_in_place(s: ConvShape, vectors: int) -> bool:
    """Whether the float kernel reads the image itself instead of a padded copy.

    A copy costs a third to a half of the time, but every tile of a line becomes code of its own.
    `vectors` are the registers of channels of a tile.
    """
    return s.out_width_padded * vectors * math.prod(s.kernel) <= _MOST_CODE


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


def _stored(s: ConvShape, term: Any, notes: KernelNotes) -> te.Tensor:
    extents = (s.batch, s.out_height, s.out_width, s.channels)
    computed = (s.batch, s.out_height, s.out_width_padded, s.channels)
    acc = te.compute(computed, term, name="conv", attrs=notes.to_attrs())
    return te.compute(extents, lambda *i: acc[i], name="store")
