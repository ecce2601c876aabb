"""First and second moments of what convolutions and dense layers read, streamed over samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lepton_tvm.ir.graph import Array, Expr, definitions, main_of, op_name, shape_of
from lepton_tvm.passes.prune.channels.carry import ints
from lepton_tvm.passes.prune.channels.labels import Flow, Ints, Weight

__all__ = ["Moments", "Reader", "find_readers", "patches"]

PATCH_LIMIT = 1152
"""Widest patch (kernel height * width * channels) whose second moments are kept in full."""
ROWS_PER_SAMPLE = 512
"""Positions of one sample that are counted at most, well spread."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reader:
    """A dense layer or convolution that sums over channels which may be removed.

    `data`: name of the tensor it reads. `columns`: the atom behind every column of its rows.
    `whole`: rows are whole patches [KH*KW*C]; else single positions [C], the taps taken as alike.
    `window`: kernel, strides, padding (top, left, bottom, right) and dilation; empty for dense.
    """

    weight: Weight
    data: str
    columns: Ints
    whole: bool
    window: tuple[tuple[int, ...], ...]

    def rows(self, array: Array) -> Array:
        """Rows [n, columns] of one activation, at most `ROWS_PER_SAMPLE` of its positions."""
        if self.window and self.whole:
            return patches(array, *self.window, limit=ROWS_PER_SAMPLE)
        found = array.reshape(-1, array.shape[-1])
        return found[_spread(len(found), ROWS_PER_SAMPLE)]

    def matrix(self, kernel: Array) -> Floats:
        """The kernel as [columns, outputs]; single positions put the taps among the outputs."""
        wide = kernel.astype(np.float64)
        if self.whole or not self.window:
            return wide.reshape(-1, kernel.shape[-1])
        return np.moveaxis(wide, -2, 0).reshape(kernel.shape[-2], -1)

    def kernel(self, matrix: Floats, shape: tuple[int, ...]) -> Array:
        """The inverse of `matrix`, float32."""
        if self.whole or not self.window:
            return matrix.reshape(shape).astype(np.float32)
        moved = matrix.reshape(shape[-2], *shape[:-2], shape[-1])
        return np.ascontiguousarray(np.moveaxis(moved, 0, -2)).astype(np.float32)


@dataclass
class Moments:
    """Running count, mean and covariance of rows, in memory that does not grow."""

    width: int
    count: int = 0
    _sum: Floats = field(init=False)
    _square: Floats = field(init=False)

    def __post_init__(self) -> None:
        self._sum = np.zeros(self.width)
        self._square = np.zeros((self.width, self.width))

    def add(self, rows: Array) -> None:
        """Count rows [n, width]."""
        self.count += len(rows)
        self._sum += rows.sum(axis=0, dtype=np.float64)
        self._square += rows.T @ rows

    @property
    def mean(self) -> Floats:
        """[width]."""
        return self._sum / max(self.count, 1)

    @property
    def covariance(self) -> Floats:
        """[width, width], symmetric."""
        return self._square / max(self.count, 1) - np.outer(self.mean, self.mean)


def patches(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *,
    limit: int | None = None,
) -> Array:
    """Rows [N*OH*OW, KH*KW*C] of an NHWC array as an HWIO kernel sees it, zeros beyond the edge.

    With `limit` at most so many of them, spread over the whole picture.
    """
    top, left, bottom, right = padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(1, 2))
    view = view[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]]
    count = int(np.prod(view.shape[:3]))
    chosen = np.unravel_index(_spread(count, count if limit is None else limit), view.shape[:3])
    return view[chosen].transpose(0, 2, 3, 1).reshape(-1, kernel[0] * kernel[1] * x.shape[3])


def _spread(count: int, limit: int) -> Ints:
    """At most `limit` of `count` positions; steps of the golden ratio avoid every regular grid."""
    if count <= limit:
        return np.arange(count, dtype=np.int64)
    steps = np.arange(limit) * 0.6180339887498949
    return np.asarray((steps % 1.0) * count, dtype=np.int64)


def find_readers(mod: object, flow: Flow) -> tuple[Reader, ...]:
    """Every ungrouped NHWC convolution and dense layer whose input channels are labelled."""
    values = definitions(main_of(mod))
    found = (_reader(flow, w, values[w.var]) for w in flow.weights)
    return tuple(reader for reader in found if reader is not None)


def _reader(flow: Flow, weight: Weight, call: Expr) -> Reader | None:
    if weight.depthwise or weight.read is None:
        return None
    roots = flow.atoms.roots(weight.read)
    data = call.args[0].name
    if op_name(call) == "relax.matmul":
        return Reader(weight, data, roots, False, ())
    attrs = call.attrs
    canonical = (str(attrs.data_layout), str(attrs.kernel_layout)) == ("NHWC", "HWIO")
    if op_name(call) != "relax.nn.conv2d" or not canonical or int(attrs.groups) != 1:
        return None
    size = shape_of(call.args[1])[:2]
    whole = size[0] * size[1] * len(roots) <= PATCH_LIMIT
    window = (size, ints(attrs.strides), ints(attrs.padding), ints(attrs.dilation))
    columns = np.tile(roots, size[0] * size[1]) if whole else roots
    return Reader(weight, data, columns, whole, window)
