"""Integer depthwise convolution over words of vertically neighbouring pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from lepton_tvm.ir.bfloat16 import element_type
from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.conv2d import ConvShape, less
from lepton_tvm.kernels.dot import in_words
from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.kernels.register_tile import RegisterTile

__all__ = ["depthwise_int8", "lines_per_word", "pack_depthwise_int8_weight", "shifted_words"]


_MOST_LINES = 2


def lines_per_word(kernel: int, stride: int, dilation: int, dot: int) -> int:
    """How many output lines the words of one read: filters rarely fill the `dot` rows of a word.

    A 3x3 filter reads three rows, a word of four bytes holds what two output lines read. More than
    two lines were not faster, and each stores its own shifted copy of the filter.
    """
    rows = -(-kernel // dot) * dot
    return 1 if dilation > 1 else min(_MOST_LINES, (rows - kernel) // stride + 1)


def pack_depthwise_int8_weight(weight: Array, shape: ConvShape) -> Array:
    """HWIO weights [KH, KW, 1, C] -> [lines, KH/dot, KW, C, dot].

    Each of the output lines that share their words has weights of its own, shifted down by the
    rows that it starts later, with zeros around.
    """
    plain = weight.reshape(*shape.kernel, shape.channels)
    return np.ascontiguousarray(shifted_words(plain, _lines(shape), shape.strides[0], shape.dot))


def shifted_words(filters: Array, lines: int, stride: int, word: int) -> Array:
    """[KH, ...] -> [lines, KH/word, ..., word], each line starting `stride` rows further down."""
    rows = -(-len(filters) // word) * word
    beside = [(0, 0)] * (filters.ndim - 1)
    made = []
    for line in range(lines):
        above = line * stride
        full = np.pad(filters, [(above, rows - len(filters) - above), *beside])
        made.append(in_words(full, 0, word))
    return np.stack(made)


def depthwise_int8(x: te.Tensor, w: te.Tensor, s: ConvShape, tile: RegisterTile) -> te.Tensor:
    """x uint8 [N, H, W, C], w as packed above -> int32 [N, OH, OW, C].

    A product of `dot` factors needs them side by side, and a depthwise filter has only one input
    channel, so `dot` rows of the image are interleaved first: stage `pad` packs vertically
    neighbouring pixels of a channel into 32-bit words, and pads. A line of such words serves all
    columns of the filter and several output lines.
    """
    lines, dot = _lines(s), s.dot
    steps = -(-s.kernel[0] // dot)
    blocks = -(-s.out_height // lines)
    bits = 32 // dot

    def word(n: Any, block: Any, step: Any, column: Any, c: Any) -> Any:
        made = None
        for part in range(dot):
            row = block * (lines * s.strides[0]) + (step * dot + part) * s.dilation[0]
            value = _pixel(x, s, n, row, column, c)
            value = tirx.shift_left(value, tirx.const(bits * part, "int32")) if part else value
            made = value if made is None else tirx.bitwise_or(made, value)
        return made

    words = te.compute((s.batch, blocks, steps, s.width_read, s.channels), word, name="pad")
    rh = te.reduce_axis((0, steps), "rh")
    rw = te.reduce_axis((0, s.kernel[1]), "rw")
    mask = tirx.const((1 << bits) - 1, "int32")

    def term(n: Any, h: Any, w_: Any, c: Any) -> Any:
        column = w_ * s.strides[1] + rw * s.dilation[1]
        packed = words[n, h // lines, rh, column, c]
        total = None
        for part in range(dot):
            shift = tirx.const(bits * part, "int32")
            value = tirx.shift_right(packed, shift) if part else packed
            weight = w[h % lines, rh, rw, c, part].astype("int32")
            value = less(tirx.bitwise_and(value, mask), s.offset) * weight
            total = value if total is None else total + value
        return te.sum(total, axis=[rh, rw])

    kernel, kind = "depthwise_conv2d", element_type(x)
    notes = KernelNotes(kernel, kind, s.macs, tile, s.dot, lines=lines)
    computed = (s.batch, blocks * lines, s.out_width_padded, s.channels)
    acc = te.compute(computed, term, name="conv", attrs=notes.to_attrs())
    out = (s.batch, s.out_height, s.out_width, s.channels)
    return te.compute(out, lambda *i: acc[i], name="store")


def _lines(s: ConvShape) -> int:
    most = lines_per_word(s.kernel[0], s.strides[0], s.dilation[0], s.dot)
    return min(most, s.out_height)


def _pixel(x: te.Tensor, s: ConvShape, n: Any, row: Any, column: Any, c: Any) -> Any:
    """One padded pixel as int32."""
    top, left, bottom, _ = s.padding
    limits = []
    if top or bottom:
        limits += [row >= top, row < top + s.height]
    if left or s.width_read - left > s.width:
        limits += [column >= left, column < left + s.width]
    # Rows beyond the image that padding does not reach meet zero weights or lines not stored.
    # An index that is clamped and a mask, not a branch: the copy stays one vector loop
    row_in = tirx.max(tirx.min(row - top, s.height - 1), 0)
    column_in = tirx.max(tirx.min(column - left, s.width - 1), 0)
    value = x[n, row_in, column_in, c].astype("int32")
    if not limits:
        return value
    mask = 0 - tirx.all(*limits).astype("int32")
    kept = tirx.bitwise_and(value, mask)
    if s.pad_value == 0:
        return kept
    fill = tirx.const(s.pad_value, "int32")
    return kept + tirx.bitwise_and(fill, tirx.bitwise_not(mask))
