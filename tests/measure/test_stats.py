"""Confidence intervals: what they must hold, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_tvm.errors import InputError
from lepton_tvm.measure import Rounds, measure_interleaved, median_ci, speedup_ci

times = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40)


@settings(deadline=None, max_examples=30)
@given(times)
def test_interval_holds_the_median_and_stays_in_range(samples: list[float]) -> None:
    found = median_ci(samples)
    assert found.low <= found.value <= found.high
    assert min(samples) <= found.low
    assert found.high <= max(samples)
    assert found.value == np.median(samples)
    assert median_ci(samples) == found


@settings(deadline=None, max_examples=30)
@given(times, st.floats(0.1, 10))
def test_a_constant_factor_is_found_exactly(samples: list[float], factor: float) -> None:
    found = speedup_ci(samples, [s / factor for s in samples])
    assert found.value == pytest.approx(factor)
    assert found.low == pytest.approx(factor)
    assert found.high == pytest.approx(factor)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        found = median_ci(generator.normal(10, 1, 30), seed=trial)
        covered += found.low <= 10 <= found.high
    # 95 of 100 are promised; 88 or fewer would happen once in 250 times
    assert covered > 88


def test_samples_that_cannot_be() -> None:
    with pytest.raises(InputError, match="no samples"):
        median_ci([])
    with pytest.raises(InputError, match="NaN"):
        median_ci([1.0, float("nan")])
    with pytest.raises(InputError, match="differ in number: 2 and 1"):
        speedup_ci([1.0, 2.0], [1.0])


def test_candidates_run_in_turns_and_each_begins_equally_often() -> None:
    calls: list[str] = []

    def runner(name: str, seconds: float):  # type: ignore[no-untyped-def]
        def run(number: int) -> float:
            calls.append(name)
            return seconds

        return run

    rounds = Rounds(least=4, most=4, budget_s=60, warmup_s=0)
    found = measure_interleaved({"a": runner("a", 1.0), "b": runner("b", 2.0)}, rounds)
    assert found == {"a": [1.0] * 4, "b": [2.0] * 4}
    assert "".join(calls[-16:]) == "aabb" + "bbaa" + "aabb" + "bbaa"


def test_bounds_of_a_measurement() -> None:
    with pytest.raises(InputError, match="1 <= least <= most"):
        Rounds(least=5, most=4)
    with pytest.raises(InputError, match="budget_s"):
        Rounds(budget_s=0)
    with pytest.raises(InputError, match="nothing to measure"):
        measure_interleaved({})
    short = Rounds(least=7, most=1000, budget_s=1e-9, warmup_s=0)
    assert len(measure_interleaved({"a": lambda n: 1e-3}, short)["a"]) in (5, 6, 7)
