"""The search goes on in batches of trials until a limit, a budget or a plateau ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lepton_tvm.tuning.model_tuning import ModelTuning
from lepton_tvm.tuning.progress import Progress
from lepton_tvm.tuning.search import Search
from lepton_tvm.tuning.space import ZERO_TRIAL
from lepton_tvm.tuning.trials import Watch

__all__ = ["Plateau", "run_batches"]

_BATCH = 48
# A smaller relative gain of the whole model does not count as one.
_PLATEAU_GAIN = 0.001
# How long until it is looked again whether other processes have finished what they have claimed.
_WAIT_S = 0.5


def run_batches(tuning: ModelTuning, progress: Progress, should_stop: Callable[[], bool]) -> str:
    """Search until something ends it, and say what: see `TuneResult.stopped`.

    `should_stop` is asked after every trial.
    """
    wanted, trials = tuning.options.trials, tuning.trials
    total = trials.refresh()
    plateau = Plateau(tuning.options.patience)
    watch = Watch(progress.count, lambda: should_stop() or progress.is_over_budget())
    while True:
        progress.say("searching")
        stopped = _stopped(tuning, progress, should_stop, total)
        if stopped is None and plateau.reached(total, tuning.search):
            stopped = "plateau"
        if stopped is not None:
            break
        tuning.search.learn()
        done = trials.run(_room(progress, wanted, total), watch)
        total = trials.refresh()
        if done == 0 and (wanted is None or total < wanted):
            if not tuning.search.propose(1):
                stopped = "exhausted"
                break
            time.sleep(_WAIT_S)  # others are at work on what is left
    progress.end_search()
    return stopped


def _stopped(
    tuning: ModelTuning, progress: Progress, should_stop: Callable[[], bool], total: int
) -> str | None:
    """Which limit of the options ends the search."""
    if should_stop():
        return "interrupted"
    if tuning.options.trials is not None and total >= tuning.options.trials:
        return "trials"
    if progress.is_over_budget() and total:
        return "budget"
    return None


def _room(progress: Progress, wanted: int | None, total: int) -> int:
    """How many trials the next batch may have: as many as are wanted, and as the time allows."""
    room = _BATCH if wanted is None else min(_BATCH, wanted - total)
    left = progress.budget_left()
    if left is not None and progress.new:
        room = min(room, int(left * progress.rate()) + 1)
    return room


@dataclass
class Plateau:
    """Whether `patience` trials in a row brought the whole model next to nothing (None: never)."""

    patience: int | None
    best_s: float = float("inf")
    at: int = 0

    def reached(self, total: int, search: Search) -> bool:
        """Take the state after `total` trials into account, and say whether that is enough."""
        if any(ZERO_TRIAL not in s.trials for s in search.states.values()):
            self.at = total  # the time of the whole model is not known yet
            return False
        now = search.expected_s()
        if now < self.best_s * (1 - _PLATEAU_GAIN):
            self.best_s, self.at = now, total
            return False
        return self.patience is not None and total - self.at >= self.patience
