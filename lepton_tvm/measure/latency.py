"""Timing several candidates in turns, so that a disturbance affects all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from lepton_tvm.errors import InputError

__all__ = ["Rounds", "Runner", "in_turns", "measure_interleaved"]

_Sample = TypeVar("_Sample")

#: Runs the candidate so many times and returns the mean seconds of one run.
Runner = Callable[[int], float]

_SHORTEST_SAMPLE_S = 5e-4  # shorter ones would measure the clock and the call
_FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Rounds:
    """How long to measure.

    At least `least` rounds and at most `most`; between them until `budget_s` seconds are over.
    `warmup_s` is for each candidate. Where `least` rounds would take more than three times the
    budget, fewer are made (never under five).
    """

    least: int = 30
    most: int = 1000
    budget_s: float = 10.0
    warmup_s: float = 0.2

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise InputError(f"rounds: need 1 <= least <= most, found {self.least}, {self.most}")
        if not self.budget_s > 0 or not self.warmup_s >= 0:
            raise InputError("rounds: budget_s must be above 0 and warmup_s not below")


def measure_interleaved(
    runners: Mapping[str, Runner], rounds: Rounds | None = None
) -> dict[str, list[float]]:
    """Seconds of one run, one sample for each candidate and round.

    A candidate's turn is one run that is not counted, since the one before left its own data in the
    caches, then the sample. Sample i of all candidates belongs to round i.
    """
    plan = rounds or Rounds()
    if not runners:
        raise InputError("there is nothing to measure")
    repeats = {name: _warm(run, plan.warmup_s) for name, run in runners.items()}

    def sample(name: str) -> float:
        runners[name](1)
        return runners[name](repeats[name])

    return in_turns({name: partial(sample, name) for name in runners}, plan)


def in_turns(
    samplers: Mapping[str, Callable[[], _Sample]], plan: Rounds
) -> dict[str, list[_Sample]]:
    """What each sampler gives, once in every round; `plan.warmup_s` is not used.

    All take their turns in one order, which begins with another one in each round.
    """
    names = list(samplers)
    samples: dict[str, list[_Sample]] = {name: [] for name in names}
    start = time.perf_counter()
    for index in range(plan.most):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            samples[name].append(samplers[name]())
        if _enough(index + 1, time.perf_counter() - start, plan):
            break
    return samples


def _warm(run: Runner, seconds: float) -> int:
    """Warm a candidate up; how many runs make one sample long enough."""
    run(1)
    best, spent = math.inf, 0.0
    while spent < seconds or math.isinf(best):
        taken = run(1)
        best, spent = min(best, taken), spent + max(taken, 1e-7)
    return max(1, math.ceil(_SHORTEST_SAMPLE_S / max(best, 1e-7)))


def _enough(done: int, elapsed: float, plan: Rounds) -> bool:
    if elapsed >= 3 * plan.budget_s:
        return done >= min(plan.least, _FEWEST_ROUNDS)
    return elapsed >= plan.budget_s and done >= plan.least
