"""Convolution over NHWC activations and packed weights: plain, grouped; float, bfloat16, int8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from lepton_tvm.ir.bfloat16 import bits, element_type, widened
from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.kernels.register_tile import RegisterTile

__all__ = [
    "ConvShape",
    "conv2d",
    "copied",
    "less",
    "pack_conv2d_weight",
    "padded_reader",
    "product",
]


@dataclass(frozen=True)
class ConvShape:
    """All extents of a convolution and how its operands are packed.

    `padding` is top, left, bottom, right. `rows` pixels of an output line are computed together:
    the last tile of a line may reach beyond it, and what it computes there is not stored. `block`
    output channels are packed together; with several groups it divides the channels of a group.
    `dot` input channels are multiplied and added at once: 1 for float32, 2 for 16-bit pairs, 4 for
    bytes. `pad_value` is what padding reads (the input's zero point). With `bfloat16` the pairs
    are bfloat16 as they lie in memory, else integers, to which bytes are widened in a copy.
    `offset` is subtracted from integer activations before they are multiplied.
    With `mmla` all `dot` channels are neighbours, as a matrix instruction wants them.
    """

    batch: int
    height: int
    width: int
    channels: int
    out_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    dot: int
    rows: int
    block: int
    pad_value: int = 0
    bfloat16: bool = False
    offset: int = 0
    mmla: bool = False

    @property
    def out_height(self) -> int:
        """Rows of the output."""
        return self._out(self.height, 0)

    @property
    def out_width(self) -> int:
        """Columns of the output."""
        return self._out(self.width, 1)

    @property
    def out_width_padded(self) -> int:
        """Columns that are computed: the output's, rounded up to a multiple of `rows`."""
        return -(-self.out_width // self.rows) * self.rows

    @property
    def width_read(self) -> int:
        """Columns of the padded input that the computed columns read."""
        span = (self.kernel[1] - 1) * self.dilation[1] + 1
        return (self.out_width_padded - 1) * self.strides[1] + span

    @property
    def width_padded(self) -> int:
        """Columns of the padded input, with those that only thrown away results read."""
        return max(self.width_read, self.width + self.padding[1] + self.padding[3])

    def _out(self, size: int, axis: int) -> int:
        span = (self.kernel[axis] - 1) * self.dilation[axis] + 1
        padded = size + self.padding[axis] + self.padding[axis + 2]
        return (padded - span) // self.strides[axis] + 1

    @property
    def group_in(self) -> int:
        """Input channels of one group."""
        return self.channels // self.groups

    @property
    def group_in_padded(self) -> int:
        """Input channels of one group, rounded up to a multiple of `dot`."""
        return -(-self.group_in // self.dot) * self.dot

    @property
    def word(self) -> int:
        """Input channels side by side: a 32-bit word, or what a matrix instruction adds."""
        return self.dot if self.mmla else min(self.dot, 4)

    @property
    def group_out(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @property
    def group_blocks(self) -> int:
        """Packed blocks of output channels in one group."""
        return -(-self.group_out // self.block)

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole operation."""
        pixels = self.batch * self.out_height * self.out_width
        return pixels * self.out_channels * self.group_in * self.kernel[0] * self.kernel[1]

    @property
    def needs_copy(self) -> bool:
        """Whether the input must be copied to be padded, widened or filled up to `dot` channels."""
        if any(self.padding) or self.out_width_padded != self.out_width:
            return True
        return self.group_in_padded != self.group_in or (self.dot == 2 and not self.bfloat16)


def pack_conv2d_weight(weight: Array, shape: ConvShape) -> Array:
    """HWIO weights -> [blocks, KH, KW, I/dot, block, dot], the last axis left out for dot 1.

    Missing channels are filled with zeros. The dtype is kept.
    """
    kh, kw = shape.kernel
    grouped = weight.reshape(kh, kw, shape.group_in, shape.groups, shape.group_out)
    fill_in = shape.group_in_padded - shape.group_in
    fill_out = shape.group_blocks * shape.block - shape.group_out
    grouped = np.pad(grouped, ((0, 0), (0, 0), (0, fill_in), (0, 0), (0, fill_out)))
    steps = shape.group_in_padded // shape.word
    split = grouped.reshape(
        kh, kw, steps, shape.word, shape.groups * shape.group_blocks, shape.block
    )
    packed = np.ascontiguousarray(split.transpose(4, 0, 1, 2, 5, 3))
    return packed[..., 0] if shape.dot == 1 else packed


def conv2d(x: te.Tensor, w: te.Tensor, shape: ConvShape, tile: RegisterTile) -> te.Tensor:
    """The loop nest; its reduction block carries `KernelNotes` with the tile.

    x: [N, H, W, C] float32, bfloat16 or uint8; w as `pack_conv2d_weight` makes it; result
    [N, OH, OW, K], float32, or int32 for uint8. Stages: `pad` (only where needed; bfloat16 as
    bits), `conv`, `store`.
    """
    s = shape
    source = _padded(x, s) if s.needs_copy else x
    rh = te.reduce_axis((0, s.kernel[0]), "rh")
    rw = te.reduce_axis((0, s.kernel[1]), "rw")
    rc = te.reduce_axis((0, s.group_in_padded // s.word), "rc")
    rd = te.reduce_axis((0, s.word), "rd")

    def read(n: Any, h: Any, w_: Any, k: Any) -> Any:
        row = h * s.strides[0] + rh * s.dilation[0]
        column = w_ * s.strides[1] + rw * s.dilation[1]
        channel = rc * s.word + rd if s.dot > 1 else rc
        if s.groups == 1:
            return source[n, row, column, channel]
        group = k // (s.group_blocks * s.block)
        if s.needs_copy:
            return source[n, row, column, group, channel]
        return source[n, row, column, group * s.group_in + channel]

    def term(n: Any, h: Any, w_: Any, k: Any) -> Any:
        value = read(n, h, w_, k)
        block, lane = k // s.block, k % s.block
        if s.dot == 1:
            return te.sum(value * w[block, rh, rw, rc, lane], axis=[rh, rw, rc])
        weight = w[block, rh, rw, rc, lane, rd]
        return te.sum(product(value, weight, s.offset), axis=[rh, rw, rc, rd])

    made = (s.batch, s.out_height, s.out_width_padded, s.groups * s.group_blocks * s.block)
    notes = KernelNotes("conv2d", element_type(x), s.macs, tile, s.dot)
    acc = te.compute(made, term, name="conv", attrs=notes.to_attrs())

    out = (s.batch, s.out_height, s.out_width, s.out_channels)
    return te.compute(out, lambda *i: acc[i], name="store")


def product(value: Any, weight: Any, offset: int = 0) -> Any:
    """The product of two bfloat16 (or the bits of the first) in float32, of integers in int32.

    `offset` is subtracted from an integer `value` first.
    """
    if element_type(weight) == "bfloat16":
        return widened(value) * widened(weight)
    return less(value.astype("int32"), offset) * weight.astype("int32")


def less(value: Any, offset: int) -> Any:
    """An int32 value less `offset`."""
    return value - tirx.const(offset, "int32") if offset else value


def copied(value: Any, dot: int) -> Any:
    """A value as the kernel's own copy holds it: bits of bfloat16, bytes widened for pairs."""
    if element_type(value) == "bfloat16":
        return bits(value)
    return value.astype("int16") if dot == 2 else value


def padded_reader(x: te.Tensor, s: ConvShape) -> Any:
    """A function (n, line, column, group, channel) -> value of the padded image.

    Columns go up to `width_padded`, channels up to `group_in_padded`.
    """
    top, left, bottom, _ = s.padding

    def inside(h: Any, w_: Any, c: Any) -> Any:
        limits = []
        if top or bottom:
            limits += [h >= top, h < top + s.height]
        if s.width_padded > s.width:
            limits += [w_ >= left, w_ < left + s.width]
        if s.group_in_padded != s.group_in:
            limits += [c < s.group_in]
        return limits

    def value(n: Any, h: Any, w_: Any, g: Any, c: Any) -> Any:
        read = copied(x[n, h - top, w_ - left, g * s.group_in + c], s.dot)
        limits = inside(h, w_, c)
        if not limits:
            return read
        return tirx.if_then_else(
            tirx.all(*limits), read, tirx.const(s.pad_value, element_type(read))
        )

    return value


def _padded(x: te.Tensor, s: ConvShape) -> te.Tensor:
    extents = [s.batch, s.height + s.padding[0] + s.padding[2], s.width_padded]
    value = padded_reader(x, s)
    if s.groups == 1:
        return te.compute(
            (*extents, s.group_in_padded), lambda n, h, w_, c: value(n, h, w_, 0, c), name="pad"
        )
    return te.compute((*extents, s.groups, s.group_in_padded), value, name="pad")
