"""A task while it is searched: its space, its trials, and its best candidate so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lepton_tvm.db import Finished, Trial
from lepton_tvm.ir.graph import Array
from lepton_tvm.tuning.cost_model import features
from lepton_tvm.tuning.space import ZERO_TRIAL, Candidate, Space
from lepton_tvm.tuning.tasks import Task

__all__ = ["TaskState", "TrialSummary", "candidate_features", "summary_of"]


@dataclass(frozen=True)
class TrialSummary:
    """A finished trial as the search sees it.

    `candidate` is its text. `speedup` is over the zero-trial schedule, 0 where it failed.
    `reference_s` are the seconds of the zero-trial kernel that ran beside it, `trial_id` is the id
    of the trial in the database.
    """

    candidate: str
    speedup: float
    reference_s: float | None = None
    trial_id: str | None = None


@dataclass
class TaskState:
    """A task, its space, and what was tried.

    `elsewhere` are candidates that another process is trying, `absent` guesses that are none.
    """

    task: Task
    space: Space
    trials: dict[str, TrialSummary] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    seeds: list[Candidate] = field(default_factory=list)
    best: TrialSummary | None = None
    since_best: int = 0
    _candidates: tuple[int, list[Candidate], Array] | None = None

    def add(self, trial: TrialSummary) -> None:
        """Take a finished trial into account."""
        if trial.candidate in self.trials:
            return
        self.trials[trial.candidate] = trial
        self.since_best += 1
        if trial.speedup > (self.best.speedup if self.best else 0.0):
            self.best, self.since_best = trial, 0

    def candidates(self, rng: np.random.Generator) -> tuple[list[Candidate], Array]:
        """The untried candidates and what the cost model sees of them, one row each."""
        if self._candidates is None or self._candidates[0] != self.space.version:
            made = self.space.candidates(rng)
            rows = np.array([candidate_features(self.task, c) for c in made], np.float32)
            self._candidates = self.space.version, made, rows
        _, candidates, rows = self._candidates
        new = [i for i, c in enumerate(candidates) if not self.knows(c.text)]
        return [candidates[i] for i in new], rows[new]

    def knows(self, text: str) -> bool:
        """Whether a candidate was tried, is being tried elsewhere, or does not exist."""
        return text in self.trials or text in self.elsewhere or text in self.absent

    @property
    def is_comparable(self) -> bool:
        """Whether the zero-trial kernel ran: without it nothing can be said of the others."""
        return ZERO_TRIAL in self.trials and self.trials[ZERO_TRIAL].speedup > 0

    @property
    def failed(self) -> int:
        """How many of its trials failed."""
        return sum(1 for t in self.trials.values() if not t.speedup)

    @property
    def zero_s(self) -> float | None:
        """Seconds of the zero-trial kernel: the median over all trials that ran beside it."""
        times = [t.reference_s for t in self.trials.values() if t.reference_s]
        return float(np.median(times)) if times else None

    @property
    def speedup(self) -> float:
        """The best one so far; the zero-trial schedule itself is 1."""
        return max(1.0, self.best.speedup if self.best else 1.0)

    @property
    def seconds_per_inference(self) -> float:
        """What the kernel is expected to take in one inference with its best schedule."""
        return self.task.calls * (self.zero_s or 0.0) / self.speedup


def summary_of(trial: Trial | Finished) -> TrialSummary:
    """A trial as the search sees it."""
    text, median_s, reference_s = trial.candidate, trial.median_s, trial.reference_s
    if trial.state != "ok" or not median_s or not reference_s:
        return TrialSummary(text, 0.0, trial_id=trial.id)
    return TrialSummary(text, reference_s / median_s, reference_s, trial.id)


def candidate_features(task: Task, candidate: Candidate) -> list[float]:
    """What the cost model sees of a candidate."""
    plan = task.plans[candidate.plan]
    return features(task.info, plan, candidate.choices)
