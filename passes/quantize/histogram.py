"""A histogram of a stream of values whose range is not known beforehand, in fixed memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.passes.quantize.qparams import U8_MAX

__all__ = ["Histogram"]

Array = npt.NDArray[Any]

_BINS = 8192


class Histogram:
    """Counts in 8192 equal bins over [-limit, limit], `limit` a power of two that grows.

    When a value does not fit, pairs of bins are merged and the limit doubles: no value is lost, and
    the result depends on the values only, not on their order or grouping.
    """

    def __init__(self) -> None:
        self.limit = 0.0
        self.counts = np.zeros(_BINS, np.int64)
        self.zeros = 0

    def add(self, values: Array) -> None:
        """Count finite `values` of any shape; exact zeros are counted apart."""
        flat = np.asarray(values, np.float32).reshape(-1)
        flat = flat[flat != 0.0]
        self.zeros += np.asarray(values).size - flat.size
        if not flat.size:
            return
        self._grow(float(np.abs(flat).max()))
        index = (flat.astype(np.float64) * (_BINS / 2 / self.limit) + _BINS / 2).astype(np.int64)
        self.counts += np.bincount(np.clip(index, 0, _BINS - 1), minlength=_BINS)

    def percentile_range(self, percentile: float) -> tuple[float, float]:
        """The values with `100 - percentile` percent of all below, and above (bin edges)."""
        total = int(self.counts.sum()) + self.zeros
        if not self.counts.any():
            return 0.0, 0.0
        tail = total * (1.0 - percentile / 100.0)
        edges = self._edges()
        counts = self.counts.copy()
        counts[_BINS // 2] += self.zeros
        below, above = np.cumsum(counts), np.cumsum(counts[::-1])
        low = edges[int(np.argmax(below > tail))]
        high = edges[::-1][int(np.argmax(above > tail))]
        return min(float(low), 0.0), max(float(high), 0.0)

    def least_error_range(self) -> tuple[float, float]:
        """The range with the least mean squared error of 8-bit rounding plus clipping."""
        used = np.flatnonzero(self.counts)
        if not used.size:
            return 0.0, 0.0
        edges = self._edges()
        low, high = min(float(edges[used[0]]), 0.0), max(float(edges[used[-1] + 1]), 0.0)
        shares = np.linspace(0.1, 1.0, 91)
        best = (low, high)
        for _ in range(2):  # one end at a time, twice
            best = (best[0], min((high * f for f in shares), key=lambda h: self._error(best[0], h)))
            best = (min((low * f for f in shares), key=lambda x: self._error(x, best[1])), best[1])
        return best

    def _error(self, low: float, high: float) -> float:
        centres = (self._edges()[:-1] + self._edges()[1:]) / 2
        inside = (centres >= low) & (centres <= high)
        step = (high - low) / U8_MAX
        clipped = np.where(centres < low, low - centres, centres - high)[~inside]
        rounding = float(self.counts[inside].sum()) * step * step / 12.0
        return rounding + float((self.counts[~inside] * clipped * clipped).sum())

    def _edges(self) -> Array:
        return np.linspace(-self.limit, self.limit, _BINS + 1)

    def _grow(self, largest: float) -> None:
        if not self.limit:
            self.limit = float(2.0 ** np.ceil(np.log2(largest)))
        while largest > self.limit:
            self.limit *= 2.0
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            quarter = _BINS // 4
            self.counts = np.concatenate(
                [np.zeros(quarter, np.int64), merged, np.zeros(quarter, np.int64)]
            )
