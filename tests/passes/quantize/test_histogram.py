"""A streaming histogram against NumPy on the whole data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_tvm.passes.quantize.histogram import Histogram


def histogram(*parts: np.ndarray) -> Histogram:  # type: ignore[type-arg]
    made = Histogram()
    for part in parts:
        made.add(part)
    return made


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.floats(1e-3, 1e3))
def test_order_and_grouping_do_not_matter(seed: int, parts: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=200) * np.exp(rng.normal(size=200) * 3) * spread).astype(np.float32)
    whole, split = histogram(x), histogram(*np.array_split(rng.permutation(x), parts))
    assert whole.limit == split.limit
    assert np.array_equal(whole.counts, split.counts)
    assert whole.counts.sum() + whole.zeros == 200


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 100.0])
def test_percentiles_agree_with_numpy_to_a_bin(percentile: float) -> None:
    x = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    made = histogram(*np.array_split(x, 7))
    low, high = made.percentile_range(percentile)
    one_bin = 2 * made.limit / 8192
    expected = np.percentile(x, [100 - percentile, percentile])
    assert [low, high] == pytest.approx(expected, abs=2 * one_bin + 1e-3)


def test_one_outlier_is_cut_by_percentile_and_weighed_by_mse() -> None:
    x = np.concatenate([np.random.default_rng(0).normal(size=100_000), [1000.0]]).astype(np.float32)
    made = histogram(x)
    assert made.percentile_range(99.99)[1] < 6.0
    assert made.percentile_range(100.0)[1] >= 1000.0
    few = histogram(np.concatenate([x, np.full(2000, 6.0, np.float32), [24.0] * 3]))
    assert 6.0 <= few.least_error_range()[1] <= 1000.0


def test_mse_keeps_the_whole_range_of_evenly_spread_values() -> None:
    made = histogram(np.linspace(-2.0, 6.0, 10_000, dtype=np.float32))
    assert made.least_error_range() == pytest.approx((-2.0, 6.0), rel=0.02)


def test_mse_clips_a_long_thin_tail() -> None:
    x = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
    low, high = histogram(x).least_error_range()
    assert float(x.min()) < low < -4.0
    assert 4.0 < high < float(x.max())


def test_values_of_one_sign_give_a_range_that_starts_at_zero() -> None:
    made = histogram(np.array([1.0, 2.0, 3.0], np.float32))
    assert made.percentile_range(99.0)[0] == 0.0
    assert made.least_error_range()[0] == 0.0


@pytest.mark.parametrize("x", [np.zeros(5, np.float32), np.zeros(0, np.float32)])
def test_nothing_but_zeros(x: np.ndarray) -> None:  # type: ignore[type-arg]
    made = histogram(x)
    assert made.percentile_range(99.9) == (0.0, 0.0)
    assert made.least_error_range() == (0.0, 0.0)
    assert made.zeros == x.size
