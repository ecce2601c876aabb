"""Products of two activations (attention): many matrices, the second packed at run time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm import te, tirx

from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.kernels.register_tile import RegisterTile

__all__ = ["BatchMatmulShape", "Indices", "Read", "batch_matmul"]

Indices: TypeAlias = Sequence[Any]
#: (tensor, batch indices and two matrix indices) -> the element there; how an operand lies in
#: memory is the reader's affair, so a transposition or a split head needs no copy of its own.
Read: TypeAlias = Callable[[te.Tensor, Indices], Any]


@dataclass(frozen=True)
class BatchMatmulShape:
    """[*batch, rows, depth] times [*batch, depth, columns], and the register tile.

    `axes` orders the result's axes as they are stored: `axes[i]` is the axis of [*batch, rows,
    columns] that comes at place i; the last one is always the columns. `row_block` and `block` are
    as in `MatmulShape`.
    """

    batch: tuple[int, ...]
    rows: int
    depth: int
    columns: int
    row_block: int
    block: int
    axes: tuple[int, ...]

    @property
    def dot(self) -> int:
        """Products that are added at once: float32 only."""
        return 1

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole operation."""
        return math.prod(self.batch) * self.rows * self.depth * self.columns

    @property
    def rows_padded(self) -> int:
        """Rows that are computed, a multiple of `row_block`."""
        return -(-self.rows // self.row_block) * self.row_block

    @property
    def blocks(self) -> int:
        """Packed blocks of columns."""
        return -(-self.columns // self.block)

    @property
    def out(self) -> tuple[int, ...]:
        """The stored result's shape."""
        plain = (*self.batch, self.rows, self.columns)
        return tuple(plain[axis] for axis in self.axes)


def batch_matmul(
    x: te.Tensor,
    y: te.Tensor,
    shape: BatchMatmulShape,
    tile: RegisterTile,
    read_x: Read,
    read_y: Read,
) -> te.Tensor:
    """The loop nest, float32; its reduction block carries `KernelNotes` with the tile.

    Stages: `pack` (each second matrix as [blocks, depth, block], filled with zeros), `product`
    (the last rows are computed again where the tile does not divide them), `store`.
    """
    s, ranks = shape, len(shape.batch)

    def packed(*index: Any) -> Any:
        *batch, block, k, lane = index
        column = block * s.block + lane
        if s.blocks * s.block == s.columns:
            return read_y(y, [*batch, k, column])
        inside = read_y(y, [*batch, k, column])
        return tirx.if_then_else(column < s.columns, inside, tirx.const(0, "float32"))

    w = te.compute((*s.batch, s.blocks, s.depth, s.block), packed, name="pack")
    k = te.reduce_axis((0, s.depth), "k")

    def term(*index: Any) -> Any:
        *batch, m, n = index
        row = m if s.rows_padded == s.rows else tirx.min(m, s.rows - 1)
        value = read_x(x, [*batch, row, k])
        return te.sum(value * w[(*batch, n // s.block, k, n % s.block)], axis=[k])

    notes = KernelNotes("batch_matmul", "float32", s.macs, tile, s.dot)
    acc = te.compute(
        (*s.batch, s.rows_padded, s.blocks * s.block),
        term,
        name="product",
        attrs=notes.to_attrs(),
    )

    def stored(*index: Any) -> Any:
        plain: list[Any] = [0] * (ranks + 2)  # a batch axis that is not stored has one element
        for axis, i in zip(s.axes, index, strict=True):
            plain[axis] = i
        return acc[tuple(plain)]

    return te.compute(s.out, stored, name="store")
