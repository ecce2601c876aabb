"""Convolution by a matrix instruction: 2 pixels by 2 output channels of 8 bytes at once.

The image is copied once so that what one instruction reads is 16 bytes in a row: 8 channels of a
pixel and the same channels of the next one that a tap reads, `strides[1]` columns on. Only the
places at which some tap starts a pair are in the copy: all columns for a 3x3 filter of stride 1
(each value is there twice), the pixels that are used, once each, for a 1x1 filter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from tvm import te

from lepton_tvm.kernels.conv2d import ConvShape, padded_reader, product
from lepton_tvm.kernels.mmla_matmul import MMLA_DEPTH
from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.kernels.register_tile import RegisterTile

__all__ = ["PairCopy", "mmla_conv2d", "saved_instructions"]


@dataclass(frozen=True)
class PairCopy:
    """The copy of the image for a convolution of `mmla` form.

    Its lines are `line_step` lines of the padded image apart, its pairs `pair_step` columns.
    """

    lines: int
    pairs: int
    line_step: int
    pair_step: int

    @classmethod
    def of(cls, s: ConvShape) -> PairCopy:
        """The smallest copy that holds what the taps of `s` read."""
        spans = [(k - 1) * d for k, d in zip(s.kernel, s.dilation, strict=True)]
        line_step = math.gcd(s.strides[0], s.dilation[0] if spans[0] else 0)
        pair_step = math.gcd(2 * s.strides[1], s.dilation[1] if spans[1] else 0)
        last_line = (s.out_height - 1) * s.strides[0] + spans[0]
        last_pair = (s.out_width_padded - 2) * s.strides[1] + spans[1]
        return cls(last_line // line_step + 1, last_pair // pair_step + 1, line_step, pair_step)


def mmla_conv2d(x: te.Tensor, w: te.Tensor, shape: ConvShape, tile: RegisterTile) -> te.Tensor:
    """uint8 x [N, H, W, C], w as `pack_conv2d_weight` makes it -> int32 [N, OH, OW, K].

    `shape` is one of `mmla` form without groups whose `rows` and `block` are even. Stages: `pad`
    [N, lines, pairs, C/8, 2, 8], `conv` [N, OH, pixel pairs, channel pairs, 2, 2], `sums` (the
    same, pixel by pixel), `store`.
    """
    s = shape
    copy, value = PairCopy.of(s), padded_reader(x, s)
    words = s.group_in_padded // s.word

    def pair(n: Any, line: Any, place: Any, c: Any, i: Any, d: Any) -> Any:
        column = place * copy.pair_step + i * s.strides[1]
        return value(n, line * copy.line_step, column, 0, c * s.word + d)

    pairs = te.compute((s.batch, copy.lines, copy.pairs, words, 2, s.word), pair, name="pad")
    rh = te.reduce_axis((0, s.kernel[0]), "rh")
    rw = te.reduce_axis((0, s.kernel[1]), "rw")
    rc = te.reduce_axis((0, words), "rc")
    rd = te.reduce_axis((0, s.word), "rd")

    def term(n: Any, h: Any, p: Any, q: Any, i: Any, j: Any) -> Any:
        line = h * (s.strides[0] // copy.line_step) + rh * (s.dilation[0] // copy.line_step)
        place = p * (2 * s.strides[1] // copy.pair_step) + rw * (s.dilation[1] // copy.pair_step)
        weight = w[q * 2 // s.block, rh, rw, rc, q * 2 % s.block + j, rd]
        return te.sum(product(pairs[n, line, place, rc, i, rd], weight), axis=[rh, rw, rc, rd])

    channels = s.group_blocks * s.block
    notes = KernelNotes("conv2d", "uint8", s.macs, tile, s.dot, mmla=True)
    acc = te.compute(
        (s.batch, s.out_height, s.out_width_padded // 2, channels // 2, 2, 2),
        term,
        name="conv",
        attrs=notes.to_attrs(),
    )
    sums = te.compute(
        (s.batch, s.out_height, s.out_width_padded, channels),
        lambda n, h, p, k: acc[n, h, p // 2, k // 2, p % 2, k % 2],
        name="sums",
    )
    out = (s.batch, s.out_height, s.out_width, s.out_channels)
    return te.compute(out, lambda *i: sums[i], name="store")


def saved_instructions(conv: ConvShape, tile: RegisterTile) -> tuple[int, int]:
    """How many multiplications fewer than dot products of 4 bytes take, and what the copy costs.

    `conv` is a convolution without groups, `tile` the tile of the mmla form. A multiplication
    does twice the products, but computes the last tile of a line whole and takes channels in steps
    of 8 instead of 4. Its copy is a load and a store for 8 bytes; the copy that the other form may
    need as well is not counted.
    """
    s = replace(conv, dot=MMLA_DEPTH, rows=tile.rows, block=tile.channels, mmla=True)
    words = s.group_in_padded // s.word
    lines, registers = s.batch * s.out_height, -(-s.out_channels // 4) * math.prod(s.kernel)
    before = lines * s.out_width * -(-s.channels // 4) * registers
    now = lines * s.out_width_padded * words * registers
    copy = PairCopy.of(s)
    return before - now, 4 * s.batch * copy.lines * copy.pairs * words
