"""3x3 convolution through Winograd's minimal filtering: fewer multiplications, in floats only.

Source of the method: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from tvm import te, tirx

from lepton_tvm.ir.bfloat16 import bits, element_type, narrowed, widened
from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.conv2d import ConvShape, copied, product
from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.kernels.register_tile import RegisterTile

__all__ = ["WinogradShape", "pack_winograd_weight", "winograd_conv2d"]

# F(4x4) evaluates polynomials at 0, +-A, +-B and infinity. With these two the products stay of
# like size: the error over 256 channels is 4 times that of the plain sum (rms), with the usual 1
# and 2 it is 8 times. A and B are exact in binary.
_A, _B = 0.75, 1.5


@dataclass(frozen=True)
class WinogradShape:
    """A stride-1 3x3 convolution cut into tiles of `size` x `size` outputs (2 or 4).

    `group` tiles are transformed, multiplied and transformed back together; `rows` divides it.
    """

    conv: ConvShape
    size: int
    group: int

    @property
    def span(self) -> int:
        """Inputs that a tile reads, and frequencies that it has, per axis."""
        return self.size + 2

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles per column and per line of an image."""
        return -(-self.conv.out_height // self.size), -(-self.conv.out_width // self.size)

    @property
    def tiles(self) -> int:
        """Tiles of the whole batch."""
        return self.conv.batch * self.grid[0] * self.grid[1]

    @property
    def groups(self) -> int:
        """Groups of tiles; the last one may be filled up with copies of the last tile."""
        return -(-self.tiles // self.group)

    @property
    def products(self) -> int:
        """Multiply-adds in the transformed space."""
        return self.span**2 * self.groups * self.group * self.conv.channels * self.conv.out_channels


def pack_winograd_weight(weight: Array, shape: WinogradShape) -> Array:
    """HWIO weights [3, 3, C, K] -> [span, span, K/block, C, block] float32, by way of float64.

    For bfloat16 [span, span, K/block, C/2, block, 2], rounded to it.
    """
    g = _filter_matrix(shape.size)
    moved = np.einsum("ax,xyck,by->abck", g, weight.astype(np.float64), g)
    n, block = shape.span, shape.conv.block
    c, k = weight.shape[2:]
    if shape.conv.bfloat16:
        pairs = moved.reshape(n, n, c // 2, 2, k // block, block).transpose(0, 1, 4, 2, 5, 3)
        return np.ascontiguousarray(pairs, dtype=ml_dtypes.bfloat16)
    split = moved.reshape(n, n, c, k // block, block).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(split, dtype="float32")


def winograd_conv2d(
    x: te.Tensor, w: te.Tensor, shape: WinogradShape, tile: RegisterTile
) -> te.Tensor:
    """x [N, H, W, C] float32 or bfloat16, w as packed above -> [N, OH, OW, K] float32.

    From bfloat16 the transforms are computed in float32, and frequencies are rounded to bfloat16
    once, before they are multiplied. Stages: `pad`, `columns` and `moved` (the input's transform,
    one axis each), `product` (one matrix product per frequency: the anchor), `back` and `store`
    (the output's transform).
    """
    s, n, m = shape.conv, shape.span, shape.size
    high, wide = shape.grid
    source = _padded(x, shape)
    made = shape.groups * shape.group

    def pixel(p: Any, row: int, column: Any, c: Any) -> Any:
        p = tirx.min(p, shape.tiles - 1) if made != shape.tiles else p
        image, line, place = p // (high * wide), p % (high * wide) // wide, p % wide
        value = source[image, line * m + row, place * m + column, c]
        return widened(value) if s.bfloat16 else value

    def frequency(a: Any, b: Any, p: Any, c: Any) -> Any:
        value = _pick(b, _input_transform(m, [columns[a, r, p, c] for r in range(n)]))
        return bits(narrowed(value)) if s.bfloat16 else value

    columns = te.compute(
        (n, n, made, s.channels),
        lambda a, b, p, c: _pick(a, _input_transform(m, [pixel(p, r, b, c) for r in range(n)])),
        name="columns",
    )
    moved = te.compute((n, n, made, s.channels), frequency, name="moved")
    rc = te.reduce_axis((0, s.channels // s.dot), "rc")
    rd = te.reduce_axis((0, s.dot), "rd")

    def term(a: Any, b: Any, p: Any, k: Any) -> Any:
        block, lane = k // s.block, k % s.block
        if s.dot == 1:
            return te.sum(moved[a, b, p, rc] * w[a, b, block, rc, lane], axis=[rc])
        value = moved[a, b, p, rc * s.dot + rd]
        return te.sum(product(value, w[a, b, block, rc, lane, rd]), axis=[rc, rd])

    kernel, kind = "winograd_conv2d", element_type(x)
    notes = KernelNotes(kernel, kind, s.macs, tile, s.dot, winograd_group=shape.group)
    sums = te.compute(
        (n, n, made, s.out_channels),
        term,
        name="product",
        attrs=notes.to_attrs(),
    )
    back = te.compute(
        (m, n, made, s.out_channels),
        lambda i, b, p, k: _pick(i, _output_transform(m, [sums[a, b, p, k] for a in range(n)])),
        name="back",
    )

    def kept(image: Any, h: Any, w_: Any, k: Any) -> Any:
        p = (image * high + h // m) * wide + w_ // m
        return _pick(w_ % m, _output_transform(m, [back[h % m, b, p, k] for b in range(n)]))

    extents = (s.batch, s.out_height, s.out_width, s.out_channels)
    return te.compute(extents, kept, name="store")


def _padded(x: te.Tensor, shape: WinogradShape) -> te.Tensor:
    s = shape.conv
    top, left, _, _ = s.padding
    rows, columns = (tiles * shape.size + 2 for tiles in shape.grid)
    return te.compute(
        (s.batch, rows, columns, s.channels),
        lambda n, h, w, c: tirx.if_then_else(
            tirx.all(h >= top, h < top + s.height, w >= left, w < left + s.width),
            copied(x[n, h - top, w - left, c], s.dot),
            tirx.const(0, "uint16" if s.bfloat16 else "float32"),
        ),
        name="pad",
    )


def _pick(index: Any, values: Sequence[Any]) -> Any:
    """values[index], resolved once the loop over `index` is unrolled."""
    picked = values[-1]
    for i in reversed(range(len(values) - 1)):
        picked = tirx.Select(index == i, values[i], picked)
    return picked


def _input_transform(size: int, d: Sequence[Any]) -> list[Any]:
    """The rows of B^T d, written so that equal parts are recognised as equal."""
    if size == 2:
        return [d[2] - d[0], d[1] + d[2], d[2] - d[1], d[3] - d[1]]
    a, b = _const(_A), _const(_B)
    aa, bb, both, sum_ = (_const(v) for v in (_A**2, _B**2, (_A * _B) ** 2, _A**2 + _B**2))
    even_a, odd_a = d[4] - bb * d[2], a * (d[3] - bb * d[1])
    even_b, odd_b = d[4] - aa * d[2], b * (d[3] - aa * d[1])
    return [
        both * d[0] - sum_ * d[2] + d[4],
        even_a + odd_a,
        even_a - odd_a,
        even_b + odd_b,
        even_b - odd_b,
        both * d[1] - sum_ * d[3] + d[5],
    ]


def _output_transform(size: int, m: Sequence[Any]) -> list[Any]:
    """The rows of A^T m."""
    if size == 2:
        return [m[0] + (m[1] + m[2]), (m[1] - m[2]) + m[3]]
    plus_a, minus_a, plus_b, minus_b = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return [
        m[0] + (plus_a + plus_b),
        _const(_A) * minus_a + _const(_B) * minus_b,
        _const(_A**2) * plus_a + _const(_B**2) * plus_b,
        _const(_A**3) * minus_a + (_const(_B**3) * minus_b + m[5]),
    ]


def _filter_matrix(size: int) -> Array:
    """G, which takes a filter of three taps to its frequencies."""
    points = [0.0, 1.0, -1.0] if size == 2 else [0.0, _A, -_A, _B, -_B]
    rows = []
    for i, point in enumerate(points):
        norm = np.prod([point - other for j, other in enumerate(points) if j != i])
        rows.append([1 / norm, point / norm, point**2 / norm])
    return np.array([*rows, [0.0, 0.0, 1.0]])


def _const(value: float) -> Any:
    return tirx.const(value, "float32")
