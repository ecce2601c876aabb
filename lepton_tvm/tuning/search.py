"""Which candidates to try next: where in the model, and which of a kernel's space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lepton_tvm.ir.graph import Array
from lepton_tvm.tuning.cost_model import CostModel
from lepton_tvm.tuning.space import ZERO_TRIAL, Candidate
from lepton_tvm.tuning.task_state import TaskState, TrialSummary, candidate_features
from lepton_tvm.tuning.tasks import Task

__all__ = ["Search"]

# So many candidates of one kernel are tried before another one is looked at again: each may need
# another lowering, of which one run of the compiler makes one for every kernel.
_CHUNK = 2
# The share of candidates that are drawn instead of predicted to be fast.
_EXPLORED = 0.25
# What a kernel is expected to gain before anything is known, falling with the number of trials.
_OPTIMISM = 0.5
# A prediction that did not come true so many times counts half.
_PATIENCE = 6


@dataclass
class _Pool:
    """The untried candidates of a task, the most promising first, and the best prediction."""

    candidates: list[Candidate]
    expected: float | None


class Search:
    """Proposes trials over all tasks of a model and learns from their results.

    A chunk of trials goes to the kernel with the largest expected gain for the whole model: its
    time per inference, times what the cost model still expects to gain there (less after each
    disappointment) plus an optimism that falls with its trials. It learns from its own trials and
    from those of `lent`, which other machines or versions made.
    """

    def __init__(
        self,
        states: Iterable[TaskState],
        model: CostModel,
        rng: np.random.Generator,
        lent: Iterable[tuple[Task, Sequence[TrialSummary]]] = (),
    ) -> None:
        self.states = {state.task.hash: state for state in states}
        self.model = model
        self._rng = rng
        self._lent = tuple(lent)

    def propose(self, count: int) -> list[tuple[Task, Candidate]]:
        """Up to `count` untried candidates, fewer where none is left; zero trials first."""
        made: list[tuple[Task, Candidate]] = []
        fresh = [s for s in self.states.values() if not s.knows(ZERO_TRIAL)]
        fresh.sort(key=lambda s: -s.task.info.macs * s.task.calls)
        for state in fresh[:count]:
            made.append((state.task, Candidate(0, {})))
        ready = [s for s in self.states.values() if s.is_comparable]
        pools = self._pools(ready)
        pending = dict.fromkeys(pools, 0)
        while len(made) < count and any(p.candidates for p in pools.values()):
            key = max(
                (k for k, pool in pools.items() if pool.candidates),
                key=lambda k: self._gradient(self.states[k], pools[k].expected, pending[k]),
            )
            pool = pools[key]
            size = min(_CHUNK, count - len(made), len(pool.candidates))
            made += [(self.states[key].task, self._take(pool)) for _ in range(size)]
            pending[key] += size
            if len(pending) * _CHUNK >= count:
                del pools[key]  # one chunk a batch: the next one is proposed knowing this one
        return made

    def learn(self) -> None:
        """Fit the cost model to all trials, lent ones too."""
        rows, targets = [], []
        own = [(s.task, list(s.trials.values())) for s in self.states.values()]
        for task, trials in (*own, *self._lent):
            space = self.states[task.hash].space
            for trial in trials:
                candidate = space.from_text(trial.candidate)
                if candidate is not None:
                    rows.append(candidate_features(task, candidate))
                    targets.append(trial.speedup)
        self.model.fit(rows, targets)

    def tried(self) -> int:
        """How many trials there are of all tasks."""
        return sum(len(s.trials) for s in self.states.values())

    def failed(self) -> int:
        """How many of them failed, in this run or before."""
        return sum(s.failed for s in self.states.values())

    def expected_s(self) -> float:
        """Seconds of all kernels of one inference, each with its best schedule so far."""
        return sum(s.seconds_per_inference for s in self.states.values())

    def zero_s(self) -> float:
        """Seconds of all kernels of one inference with their zero-trial schedules."""
        return sum(s.task.calls * (s.zero_s or 0.0) for s in self.states.values())

    def _pools(self, states: Sequence[TaskState]) -> dict[str, _Pool]:
        """The untried candidates of each task, all of them predicted at once."""
        found = [state.candidates(self._rng) for state in states]
        every = [rows for _, rows in found]
        predicted = self.model.predict(np.concatenate(every)) if every else None
        made, start = {}, 0
        for state, (candidates, rows) in zip(states, found, strict=True):
            end = start + len(rows)
            speedups = None if predicted is None else predicted[start:end]
            made[state.task.hash] = self._pool(state, candidates, speedups)
            start = end
        return made

    def _pool(
        self, state: TaskState, candidates: list[Candidate], predicted: Array | None
    ) -> _Pool:
        seeds = [c for c in state.seeds if not state.knows(c.text)]
        if predicted is None:
            ranks = np.array([c.plan + 2.0 * len(c.choices) for c in candidates])
            order = np.argsort(ranks + self._rng.uniform(0, 3, len(candidates)), kind="stable")
            return _Pool([*seeds, *(candidates[i] for i in order)], None)
        order = np.argsort(-predicted, kind="stable")
        return _Pool([*seeds, *(candidates[i] for i in order)], float(predicted.max(initial=0.0)))

    def _take(self, pool: _Pool) -> Candidate:
        """Mostly the most promising candidate, sometimes any."""
        index = 0
        if pool.expected is not None and self._rng.random() < _EXPLORED:
            index = int(self._rng.integers(len(pool.candidates)))
        return pool.candidates.pop(index)

    def _gradient(self, state: TaskState, expected: float | None, pending: int) -> float:
        tried = len(state.trials) + pending
        forward = 0.0
        if expected is not None and expected > state.speedup:
            forward = (1 - state.speedup / expected) * 0.5 ** (state.since_best / _PATIENCE)
        optimism = _OPTIMISM / (tried + 4)
        time: float = state.seconds_per_inference
        return time * (float(forward * 0.7 ** (pending / _CHUNK)) + optimism)
