"""First layers: convolutions of few channels that read a channels-first image.

A graph's input arrives channels-first. Turning it around, quantizing it and padding it would be
three passes over bytes that no vector instruction likes. Here one pass makes a padded image in
which neighbouring elements are neighbouring pixels: planes of float32, or the bytes of all channels
of a pixel in one 32-bit word, which is what an integer dot product reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from lepton_tvm.ir.bfloat16 import element_type
from lepton_tvm.kernels.conv2d import ConvShape, less
from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.kernels.register_tile import RegisterTile

__all__ = ["Image", "image_conv2d", "pack_image"]

_BYTES = 4
# Pixels of a line are a multiple of this, so that it is a whole number of vectors.
_VECTOR = 16


@dataclass(frozen=True)
class Image:
    """The padded image of a convolution without groups, of at most four channels if integer.

    One line more stands above and one below: what lies left of a line is the end of the one before
    it, so no line needs padding on both sides.
    """

    conv: ConvShape

    @property
    def planes(self) -> int:
        """Tensors of pixels: one per channel in float32, one of words for bytes."""
        return self.conv.channels if self.conv.dot == 1 else 1

    @property
    def lines(self) -> int:
        """Lines, with padding."""
        return self.conv.height + self.conv.padding[0] + self.conv.padding[2] + 2

    @property
    def pitch(self) -> int:
        """Pixels of a line, with padding."""
        s = self.conv
        wanted = max(s.width + s.padding[1], s.width_read - s.padding[1])
        return -(-wanted // _VECTOR) * _VECTOR


def pack_image(x: te.Tensor, image: Image) -> te.Tensor:
    """x [N, C, H, W] float32 or uint8 -> [N, planes, lines, pitch] float32 or int32 words."""
    s = image.conv
    top = s.padding[0] + 1
    words = s.dot > 1
    fill = sum(s.pad_value << (8 * byte) for byte in range(_BYTES))
    outside = tirx.const(fill - (fill >> 31 << 32), "int32") if words else tirx.const(0, "float32")

    def pixel(n: Any, plane: Any, h: Any, w: Any) -> Any:
        if not words:
            return x[n, plane, h, w]
        made = tirx.const(0, "int32")
        for channel in range(s.channels):
            byte = x[n, channel, h, w].astype("int32")
            made = made + tirx.shift_left(byte, tirx.const(8 * channel, "int32"))
        return made

    def value(n: Any, plane: Any, line: Any, w: Any) -> Any:
        inside = tirx.all(line >= top, line < top + s.height)
        read = tirx.if_then_else(w < s.width, pixel(n, plane, line - top, w), outside)
        return tirx.if_then_else(inside, read, outside)

    return te.compute((s.batch, image.planes, image.lines, image.pitch), value, name="image")


def _byte_of(word: Any, byte: int) -> Any:
    """One byte of a word, as int32."""
    moved = tirx.shift_right(word, tirx.const(8 * byte, "int32")) if byte else word
    return tirx.bitwise_and(moved, tirx.const(255, "int32"))


def image_conv2d(x: te.Tensor, w: te.Tensor, image: Image, tile: RegisterTile) -> te.Tensor:
    """x as `pack_image` makes it, w as `pack_conv2d_weight` does -> [N, OH, OW, K].

    The same loop nest as `conv2d`, its block annotated alike, with operand `uint8x4` for words.
    """
    s, pitch = image.conv, image.pitch
    rh = te.reduce_axis((0, s.kernel[0]), "rh")
    rw = te.reduce_axis((0, s.kernel[1]), "rw")
    rc = te.reduce_axis((0, image.planes), "rc")

    def term(n: Any, h: Any, w_: Any, k: Any) -> Any:
        row = h * s.strides[0] + rh * s.dilation[0] + 1
        place = row * pitch + w_ * s.strides[1] + rw * s.dilation[1] - s.padding[1]
        pixel = x[n, rc, place // pitch, place % pitch]
        block, lane = k // s.block, k % s.block
        if s.dot == 1:
            return te.sum(pixel * w[block, rh, rw, rc, lane], axis=[rh, rw, rc])
        total = None
        for byte in range(_BYTES):
            weight = w[block, rh, rw, rc, lane, byte].astype("int32")
            part = less(_byte_of(pixel, byte), s.offset) * weight
            total = part if total is None else total + part
        return te.sum(total, axis=[rh, rw, rc])

    operand = "uint8x4" if s.dot > 1 else element_type(x)
    notes = KernelNotes("conv2d", operand, s.macs, tile, s.dot)
    columns = -(-s.out_channels // s.block) * s.block
    acc = te.compute(
        (s.batch, s.out_height, s.out_width_padded, columns),
        term,
        name="conv",
        attrs=notes.to_attrs(),
    )
    out = (s.batch, s.out_height, s.out_width, s.out_channels)
    return te.compute(out, lambda *i: acc[i], name="store")
