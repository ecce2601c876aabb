"""Products of activations with packed constant weights; a 1x1 convolution is one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from lepton_tvm.ir.bfloat16 import element_type
from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.conv2d import copied, product
from lepton_tvm.kernels.indices import unflatten
from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.kernels.register_tile import RegisterTile

__all__ = ["MatmulShape", "matmul", "pack_matmul_weight", "rows_of", "stored"]


@dataclass(frozen=True)
class MatmulShape:
    """`leading` dimensions of the activations (all rows), reduction depth, columns and packing.

    `row_block` rows are computed together (the last block reads the last row again where the rows
    do not fill it); `dot`, `block`, `bfloat16` and `offset` are as in `ConvShape`.
    With `mmla` all `dot` values of the depth are neighbours, as a matrix instruction wants them.
    """

    leading: tuple[int, ...]
    depth: int
    columns: int
    dot: int
    row_block: int
    block: int
    bfloat16: bool = False
    offset: int = 0
    mmla: bool = False

    @property
    def rows(self) -> int:
        """Rows of the flattened product."""
        return math.prod(self.leading)

    @property
    def depth_padded(self) -> int:
        """Depth rounded up to a multiple of `dot`."""
        return -(-self.depth // self.dot) * self.dot

    @property
    def word(self) -> int:
        """Values of the depth side by side: a 32-bit word, or what a matrix instruction adds."""
        return self.dot if self.mmla else min(self.dot, 4)

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole operation."""
        return self.rows * self.depth * self.columns

    @property
    def rows_padded(self) -> int:
        """Rows that are computed, a multiple of `row_block`."""
        return -(-self.rows // self.row_block) * self.row_block

    @property
    def blocks(self) -> int:
        """Packed blocks of columns."""
        return -(-self.columns // self.block)


def pack_matmul_weight(weight: Array, shape: MatmulShape) -> Array:
    """[depth, columns] weights -> [blocks, depth/word, block, word], no last axis for dot 1."""
    fill = ((0, shape.depth_padded - shape.depth), (0, shape.blocks * shape.block - shape.columns))
    full = np.pad(weight, fill)
    steps = shape.depth_padded // shape.word
    split = full.reshape(steps, shape.word, shape.blocks, shape.block)
    packed = np.ascontiguousarray(split.transpose(2, 0, 3, 1))
    return packed[..., 0] if shape.dot == 1 else packed


def matmul(x: te.Tensor, w: te.Tensor, shape: MatmulShape, tile: RegisterTile) -> te.Tensor:
    """x [*leading, depth] times packed w -> [*leading, columns], float32, or int32 for uint8.

    The reduction block `product` is two-dimensional: all leading dimensions are one row axis.
    """
    s = shape
    source = rows_of(x, s)
    rc = te.reduce_axis((0, s.depth_padded // s.word), "rc")
    rd = te.reduce_axis((0, s.word), "rd")

    def term(m: Any, k: Any) -> Any:
        block, lane = k // s.block, k % s.block
        if s.dot == 1:
            return te.sum(source(m, rc) * w[block, rc, lane], axis=[rc])
        value = source(m, rc * s.word + rd)
        return te.sum(product(value, w[block, rc, lane, rd], s.offset), axis=[rc, rd])

    notes = KernelNotes("matmul", element_type(x), s.macs, tile, s.dot)
    acc = te.compute(
        (s.rows_padded, s.blocks * s.block),
        term,
        name="product",
        attrs=notes.to_attrs(),
    )

    return stored(acc, s)


def stored(acc: te.Tensor, s: MatmulShape) -> te.Tensor:
    """The sums that exist of `acc` [rows, columns], as [*leading, columns]."""

    def kept(*index: Any) -> Any:
        row = index[0] if s.leading else tirx.const(0, "int32")
        for extent, i in zip(s.leading[1:], index[1:-1], strict=True):
            row = row * extent + i
        return acc[row, index[-1]]

    return te.compute((*s.leading, s.columns), kept, name="store")


def rows_of(x: te.Tensor, s: MatmulShape) -> Any:
    """A function (row, depth) -> value, through a copy where the operand must be widened."""

    def direct(m: Any, c: Any) -> Any:
        if s.rows_padded != s.rows:
            m = tirx.min(m, s.rows - 1)
        return x[(*unflatten(m, s.leading), c)]

    if s.depth_padded == s.depth and (s.dot != 2 or s.bfloat16):
        return direct

    def value(m: Any, c: Any) -> Any:
        read = copied(direct(m, c), s.dot)
        if s.depth_padded == s.depth:
            return read
        return tirx.if_then_else(c < s.depth, read, tirx.const(0, element_type(read)))

    copy = te.compute((s.rows_padded, s.depth_padded), value, name="pad")
    return lambda m, c: copy[m, c]
