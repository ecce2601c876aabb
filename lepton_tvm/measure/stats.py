"""Confidence intervals of medians by the bootstrap (Efron and Tibshirani 1993, percentile)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.errors import InputError

__all__ = ["Estimate", "median_ci", "speedup_ci"]

Samples = Sequence[float] | npt.NDArray[np.float64]
_LEVEL = 0.95
_RESAMPLES = 2000
_CHUNK = 1 << 22  # numbers drawn at a time, 32 MB


@dataclass(frozen=True)
class Estimate:
    """A number and the interval in which it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    def ci(self) -> list[float]:
        """`[low, high]`."""
        return [self.low, self.high]


def median_ci(samples: Samples, *, seed: int = 0) -> Estimate:
    """The median of `samples` and its bootstrap 95 % confidence interval."""
    values = _array(samples)
    medians = np.concatenate([np.median(values[i], axis=1) for i in _draws(len(values), seed)])
    return _estimate(float(np.median(values)), medians)


def speedup_ci(baseline: Samples, other: Samples, *, seed: int = 0) -> Estimate:
    """How many times faster `other` is: the ratio of medians and its 95 % interval.

    Both hold one sample for each round, in the order of the rounds, which are drawn as pairs: what
    disturbed a round disturbed both.
    """
    base, rival = _array(baseline), _array(other)
    if len(base) != len(rival):
        raise InputError(f"paired samples differ in number: {len(base)} and {len(rival)}")
    ratios = np.concatenate(
        [np.median(base[i], axis=1) / np.median(rival[i], axis=1) for i in _draws(len(base), seed)]
    )
    return _estimate(float(np.median(base) / np.median(rival)), ratios)


def _array(samples: Samples) -> npt.NDArray[np.float64]:
    values = np.asarray(samples, np.float64)
    if values.ndim != 1 or not len(values):
        raise InputError("there are no samples to take a median of")
    if not np.isfinite(values).all():
        raise InputError("samples hold NaN or infinite values")
    return values


def _draws(count: int, seed: int) -> list[npt.NDArray[Any]]:
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // count)
    sizes = [min(step, _RESAMPLES - done) for done in range(0, _RESAMPLES, step)]
    return [generator.integers(0, count, (size, count)) for size in sizes]


def _estimate(value: float, resampled: npt.NDArray[np.float64]) -> Estimate:
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(value, float(min(low, value)), float(max(high, value)))
