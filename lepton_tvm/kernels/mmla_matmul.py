"""Products by a matrix instruction: 2 rows by 2 columns of 8 bytes are multiplied at once.

The weights are packed by `pack_matmul_weight`: 8 values of the depth of one column, then the next
column, so that 16 bytes are what one instruction takes. The sums lie in registers of 2 x 2.
"""

from __future__ import annotations

from typing import Any

from tvm import te

from lepton_tvm.kernels.conv2d import product
from lepton_tvm.kernels.matmul import MatmulShape, rows_of, stored
from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.kernels.register_tile import RegisterTile

__all__ = ["MMLA_DEPTH", "mmla_matmul", "saves_instructions"]

#: Bytes of the depth that one instruction adds, per row and column.
MMLA_DEPTH = 8


def mmla_matmul(x: te.Tensor, w: te.Tensor, shape: MatmulShape, tile: RegisterTile) -> te.Tensor:
    """uint8 x [*leading, depth] times packed int8 w -> int32 [*leading, columns].

    Stages: `pad` (only where the depth is not a multiple of 8), `pairs` (the activations, to be
    read two rows at a time), `product` [row pairs, column pairs, 2, 2], `sums` (the same, row by
    row), `store`.
    """
    s = shape
    source = rows_of(x, s)
    pairs = te.compute((s.rows_padded, s.depth_padded), lambda m, c: source(m, c), name="pairs")
    rc = te.reduce_axis((0, s.depth_padded // s.word), "rc")
    rd = te.reduce_axis((0, s.word), "rd")

    def term(p: Any, q: Any, i: Any, j: Any) -> Any:
        weight = w[q * 2 // s.block, rc, q * 2 % s.block + j, rd]
        return te.sum(product(pairs[p * 2 + i, rc * s.word + rd], weight), axis=[rc, rd])

    columns = s.blocks * s.block
    notes = KernelNotes("matmul", "uint8", s.macs, tile, s.dot, mmla=True)
    acc = te.compute(
        (s.rows_padded // 2, columns // 2, 2, 2),
        term,
        name="product",
        attrs=notes.to_attrs(),
    )
    sums = te.compute(
        (s.rows_padded, columns), lambda m, k: acc[m // 2, k // 2, m % 2, k % 2], name="sums"
    )
    return stored(sums, s)


def saves_instructions(rows: int, depth: int, columns: int, tile: RegisterTile) -> bool:
    """Whether a matrix instruction multiplies in fewer instructions than dot products of 4 bytes.

    One does twice the products, but rows go in pairs (the last tile of `tile.rows` is counted
    whole) and the depth in steps of 8 instead of 4. Loads need no count: they are halved where the
    multiplications are, 8 bytes of a row each. Where only the mmla kernel needs a copy of the
    activations (a depth of 4, 12, 20, ...) that is counted with an instruction a byte.
    """
    registers = -(-columns // 4)
    padded = -(-rows // tile.rows) * tile.rows
    steps = -(-depth // MMLA_DEPTH)
    copied = padded * steps * MMLA_DEPTH if depth % MMLA_DEPTH == 4 else 0
    return padded * steps * registers + copied < rows * -(-depth // 4) * registers
