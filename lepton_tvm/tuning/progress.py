"""How far a tuning run is: its status, its rate, and when it may end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lepton_tvm.tuning.search import Search
from lepton_tvm.tuning.tune_options import TuneOptions
from lepton_tvm.tuning.tune_result import Status, task_result

__all__ = ["OnStatus", "Progress", "say_lowering"]

OnStatus = Callable[[Status], None]


def say_lowering(tell: OnStatus, wanted: int | None) -> None:
    """Tell that the run has begun: nothing is known of its kernels before they are lowered."""
    tell(Status("lowering", 0, wanted, 0.0, None, 0.0, 0.0, 0.0, 0))


@dataclass
class Progress:
    """The clock and the counter of a run whose search begins now.

    `tell` is told how far it is. `started` is when the run began (`time.monotonic`), `new` how many
    trials it made itself, `search_s` how long its search took, once that is over.
    """

    search: Search
    options: TuneOptions
    tell: OnStatus
    started: float
    search_began: float = field(default_factory=time.monotonic)
    search_s: float = 0.0
    new: int = 0

    def say(self, phase: str) -> None:
        """Tell how far the run is."""
        search, rate = self.search, self.rate()
        done = search.tried()
        self.tell(
            Status(
                phase=phase,
                done=done,
                wanted=self.options.trials,
                elapsed_s=self.elapsed(),
                eta_s=self._eta(done, rate) if phase == "searching" else None,
                zero_ms=search.zero_s() * 1e3,
                best_ms=search.expected_s() * 1e3,
                trials_per_s=rate,
                failed=search.failed(),
                kernels=tuple(task_result(s, None) for s in search.states.values()),
            )
        )

    def count(self) -> None:
        """Count one trial of this run, and tell."""
        self.new += 1
        self.say("searching")

    def end_search(self) -> None:
        """Stop the clock of the search."""
        self.search_s = time.monotonic() - self.search_began

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    def rate(self) -> float:
        """Trials per second of this run's search."""
        spent = self.search_s or time.monotonic() - self.search_began
        return self.new / max(spent, 1e-9)

    def budget_left(self) -> float | None:
        """Seconds that are left for the search; None where there is no limit."""
        if self.options.budget is None:
            return None
        return self.options.budget - (time.monotonic() - self.search_began)

    def is_over_budget(self) -> bool:
        """Whether the time for the search is over."""
        left = self.budget_left()
        return left is not None and left <= 0

    def _eta(self, done: int, rate: float) -> float | None:
        wanted = self.options.trials
        left = (wanted - done) / rate if wanted is not None and rate > 0 else None
        rest = self.budget_left()
        if rest is None:
            return left
        return max(0.0, rest) if left is None else min(left, max(0.0, rest))
