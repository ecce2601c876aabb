"""Functions of whole rows (softmax, layer norm): several results per lane, folded in halves.

A sum over one row is taken apart into `lanes` running sums, which a vector register holds, and
those are added in a tree. Rows of any length: what lies behind a row's end counts as nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from lepton_tvm.kernels.notes import ROW_STAGE

__all__ = ["layer_norm", "log_softmax", "softmax"]

# Running results of one row: one register of AVX-512, or several of these for long rows, so that
# an addition need not wait for the one before it.
_LANES = 16
_MOST_LANES = 64

_Fold = Callable[[Any, Any], Any]


def softmax(x: te.Tensor) -> te.Tensor:
    """exp(x - max) / sum over the last axis, float32."""
    powers, total = _powers(x)
    one = tirx.const(1, "float32")
    factor = te.compute(total.shape, lambda *i: one / total[i], name="inverse", attrs=_fold())
    return te.compute(x.shape, lambda *i: powers[i] * factor[i[:-1]], name="softmax", attrs=_row())


def log_softmax(x: te.Tensor) -> te.Tensor:
    """x - max - log(sum of exp(x - max)) over the last axis, float32."""
    top = _folded(x, te.max, tirx.max, tirx.min_value("float32"), "top")
    powers = _shifted_powers(x, top)
    total = _folded(powers, te.sum, _add, tirx.const(0, "float32"), "total")
    shift = te.compute(
        total.shape, lambda *i: top[i] + tirx.log(total[i]), name="shift", attrs=_fold()
    )
    return te.compute(x.shape, lambda *i: x[i] - shift[i[:-1]], name="log_softmax", attrs=_row())


def layer_norm(x: te.Tensor, gamma: te.Tensor, beta: te.Tensor, epsilon: float) -> te.Tensor:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over the last axis, float32.

    The variance is the mean of (x - mean)^2: two passes over a row that is in cache anyway, where
    mean(x^2) - mean^2 would lose digits.
    """
    inverse = tirx.const(1.0 / int(x.shape[-1]), "float32")
    total = _folded(x, te.sum, _add, tirx.const(0, "float32"), "total")
    mean = te.compute(total.shape, lambda *i: total[i] * inverse, name="mean", attrs=_fold())
    centred = te.compute(x.shape, lambda *i: x[i] - mean[i[:-1]], name="centred", attrs=_row())
    squares = te.compute(x.shape, lambda *i: centred[i] * centred[i], name="squares", attrs=_row())
    spread = _folded(squares, te.sum, _add, tirx.const(0, "float32"), "spread")
    scale = te.compute(
        spread.shape,
        lambda *i: tirx.const(1, "float32") / tirx.sqrt(spread[i] * inverse + epsilon),
        name="scale",
        attrs=_fold(),
    )
    return te.compute(
        x.shape,
        lambda *i: centred[i] * scale[i[:-1]] * gamma[i[-1]] + beta[i[-1]],
        name="layer_norm",
        attrs=_row(),
    )


def _powers(x: te.Tensor) -> tuple[te.Tensor, te.Tensor]:
    """exp(x - max of the row), and its sum."""
    top = _folded(x, te.max, tirx.max, tirx.min_value("float32"), "top")
    powers = _shifted_powers(x, top)
    return powers, _folded(powers, te.sum, _add, tirx.const(0, "float32"), "total")


def _shifted_powers(x: te.Tensor, top: te.Tensor) -> te.Tensor:
    shifted = te.compute(x.shape, lambda *i: x[i] - top[i[:-1]], name="shifted", attrs=_row())
    return te.compute(x.shape, lambda *i: tirx.exp(shifted[i]), name="powers", attrs=_row())


def _folded(
    x: te.Tensor, reduce: Callable[..., Any], fold: _Fold, neutral: Any, name: str
) -> te.Tensor:
    """`reduce` over the last axis: `lanes` running results, then halves until one is left."""
    *rows, columns = (int(d) for d in x.shape)
    lanes = _LANES
    while lanes < _MOST_LANES and columns >= 4 * lanes:
        lanes *= 2
    piece = te.reduce_axis((0, -(-columns // lanes)), "piece")

    def term(*index: Any) -> Any:
        column = piece * lanes + index[-1]
        value = x[(*index[:-1], column)]
        if columns % lanes:
            value = tirx.if_then_else(column < columns, value, neutral)
        return reduce(value, axis=[piece])

    made = te.compute((*rows, lanes), term, name=name, attrs={ROW_STAGE: "partial"})
    while lanes > 1:
        lanes //= 2
        made = _half(made, (*rows, lanes), fold, name)
    return te.compute(rows, lambda *i: made[(*i, 0)], name=f"{name}_of_row", attrs=_fold())


def _half(parts: te.Tensor, shape: Sequence[int], fold: _Fold, name: str) -> te.Tensor:
    half = shape[-1]
    return te.compute(
        shape,
        lambda *i: fold(parts[i], parts[(*i[:-1], i[-1] + half)]),
        name=f"{name}_{half}",
        attrs=_fold(),
    )


def _add(a: Any, b: Any) -> Any:
    return a + b


def _row() -> dict[str, str]:
    return {ROW_STAGE: "row"}


def _fold() -> dict[str, str]:
    return {ROW_STAGE: "fold"}
