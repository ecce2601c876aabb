"""Matrix products for GPUs: convolutions (as implicit products) and products of two operands.

Both operands are read through functions, so that padding, the window of a convolution and the
views of attention cost no copy in memory: a schedule computes the tile that a thread block needs
straight into shared memory. All extents are rounded up to what the instruction multiplies at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from tvm import te, tirx

from lepton_tvm.ir.bfloat16 import element_type
from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.notes import KernelNotes

__all__ = [
    "SHIFT",
    "GemmShape",
    "Reader",
    "Window",
    "gemm",
    "pack_gemm_weight",
    "shifted",
    "window_reader",
]

#: (batch indices, row, depth) -> the element there, for indices inside the operand.
Reader: TypeAlias = Callable[[Sequence[Any], Any, Any], Any]

#: Taken from unsigned bytes, so that both factors of a product are signed bytes.
SHIFT = 128


@dataclass(frozen=True)
class GemmShape:
    """[*batch, rows, depth] times [*batch, columns, depth] transposed, stored as `out`.

    `axes` orders the result's axes as they are stored, as in `BatchMatmulShape`; `leading` are the
    dimensions that `rows` are flattened from (where there is no batch). `operand` is the element
    type that is multiplied: float32, bfloat16 or int8. `step` divides the padded depth.
    """

    batch: tuple[int, ...]
    leading: tuple[int, ...]
    rows: int
    columns: int
    depth: int
    operand: str
    step: int
    axes: tuple[int, ...] = ()

    @property
    def depth_padded(self) -> int:
        """Depth rounded up to a multiple of `step`."""
        return -(-self.depth // self.step) * self.step

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole operation."""
        return math.prod(self.batch) * self.rows * self.columns * self.depth

    @property
    def total(self) -> str:
        """The element type of the sums."""
        return "int32" if self.operand == "int8" else "float32"

    @property
    def out(self) -> tuple[int, ...]:
        """The stored result's shape."""
        plain = (*self.batch, *self.leading, self.columns)
        return tuple(plain[a] for a in self.axes) if self.axes else plain


@dataclass(frozen=True)
class Window:
    """A convolution's reading of an NHWC image: `kernel`, `strides`, `padding` (top, left, bottom,
    right), `dilation`; `pad_value` is what lies outside."""

    image: tuple[int, int, int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    pad_value: int = 0

    @property
    def out(self) -> tuple[int, int, int]:
        """Pictures, lines and columns of the result."""
        n, h, w, _ = self.image
        top, left, bottom, right = self.padding
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        lines = (h + top + bottom - spans[0]) // self.strides[0] + 1
        return n, lines, (w + left + right - spans[1]) // self.strides[1] + 1

    def at(self, x: te.Tensor, place: Sequence[Any], tap: Sequence[Any], channel: Any) -> Any:
        """What the window at (picture, line, column) reads with `tap` of the filter."""
        (n, oh, ow), (kh, kw) = place, tap
        top, left, bottom, right = self.padding
        h = oh * self.strides[0] + kh * self.dilation[0] - top
        w = ow * self.strides[1] + kw * self.dilation[1] - left
        inside = []
        if top:
            inside.append(h >= 0)
        if bottom:
            inside.append(h < self.image[1])
        if left:
            inside.append(w >= 0)
        if right:
            inside.append(w < self.image[2])
        value = x[n, h, w, channel]
        if not inside:
            return value
        return tirx.if_then_else(
            tirx.all(*inside), value, tirx.const(self.pad_value, element_type(x))
        )


def window_reader(x: te.Tensor, window: Window) -> Reader:
    """Rows are the places of the window, depth runs over filter lines, columns and channels."""
    _, lines, columns = window.out
    channels, width = window.image[3], window.kernel[1]

    def read(_: Sequence[Any], row: Any, depth: Any) -> Any:
        place = (row // (lines * columns), row // columns % lines, row % columns)
        tap = (depth // (width * channels), depth // channels % width)
        return window.at(x, place, tap, depth % channels)

    return read


def shifted(value: Any) -> Any:
    """An unsigned byte less 128, as a signed byte; anything else as it is."""
    if element_type(value) != "uint8":
        return value
    return (value.astype("int32") - SHIFT).astype("int8")


def pack_gemm_weight(weight: Array, shape: GemmShape) -> tuple[Array, Array | None]:
    """[depth, columns] weights -> [columns, padded depth], and 128 times their sums for integers.

    The second array [columns] makes up for the shift of the activations; None for floats.
    """
    full = np.zeros((shape.columns, shape.depth_padded), weight.dtype)
    full[:, : shape.depth] = weight.T
    if shape.operand != "int8":
        return full, None
    return full, (SHIFT * weight.astype(np.int64).sum(axis=0)).astype(np.int32)


def gemm(
    shape: GemmShape,
    rows: Reader,
    columns: Reader,
    correction: te.Tensor | None = None,
    columns_padded: bool = True,
) -> te.Tensor:
    """The loop nest; its reduction block carries `KernelNotes`.

    Stages: `rows` and `columns` (the operands as two matrices of depth-long lines, filled with
    zeros), `product` ([*batch, rows, columns]), `store`. `columns_padded`: whether the second
    operand is already filled up (packed weights).
    """
    s, ranks = shape, len(shape.batch)

    def filled(read: Reader, batch: Sequence[Any], line: Any, k: Any, padded: bool) -> Any:
        value = shifted(read(batch, line, k))
        if padded or s.depth_padded == s.depth:
            return value
        return tirx.if_then_else(k < s.depth, value, tirx.const(0, s.operand))

    def matrix(read: Reader, lines: int, padded: bool, name: str) -> te.Tensor:
        def element(*index: Any) -> Any:
            *batch, line, k = index
            return filled(read, batch, line, k, padded)

        return te.compute((*s.batch, lines, s.depth_padded), element, name=name)

    a = matrix(rows, s.rows, False, "rows")
    b = matrix(columns, s.columns, columns_padded, "columns")
    k = te.reduce_axis((0, s.depth_padded), "k")

    def term(*index: Any) -> Any:
        *batch, m, n = index
        left, right = a[(*batch, m, k)], b[(*batch, n, k)]
        return te.sum(left.astype(s.total) * right.astype(s.total), axis=[k])

    product = te.compute(
        (*s.batch, s.rows, s.columns),
        term,
        name="product",
        attrs=KernelNotes("gemm", s.operand, s.macs).to_attrs(),
    )

    def stored(*index: Any) -> Any:
        if s.axes:
            plain: list[Any] = [0] * (ranks + 2)
            for axis, i in zip(s.axes, index, strict=True):
                plain[axis] = i
            return product[tuple(plain)]
        row: Any = tirx.const(0, "int32")
        for extent, i in zip(s.leading, index[ranks:-1], strict=True):
            row = row * extent + i
        value = product[(*index[:ranks], row, index[-1])]
        return value if correction is None else value + correction[index[-1]]

    return te.compute(s.out, stored, name="store")
