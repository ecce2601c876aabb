"""Which schedules to try next: where in the model, and which points of a kernel's space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lepton_tvm.ir.graph import Array
from lepton_tvm.tuning.cost_model import CostModel, features
from lepton_tvm.tuning.space import ZERO_TRIAL, Point, Space
from lepton_tvm.tuning.tasks import Task

__all__ = ["Record", "Search", "TaskState", "point_features"]

# So many points of one kernel are tried before another one is looked at again: each may be another
# lowering, of which one run of the compiler makes one for every kernel.
_CHUNK = 2
# The share of points that are drawn instead of predicted to be fast.
_EXPLORED = 0.25
# What a kernel is expected to gain before anything is known, falling with the number of trials.
_OPTIMISM = 0.5
# A prediction that did not come true so many times counts half.
_PATIENCE = 6


@dataclass(frozen=True)
class Record:
    """A finished trial; `speedup` is over the zero-trial schedule, 0 where it failed.

    `reference_s` are the seconds of the zero-trial kernel that ran beside it, `trial_id` is the id
    of the trial in the database.
    """

    text: str
    speedup: float
    reference_s: float | None = None
    trial_id: str | None = None


@dataclass
class TaskState:
    """A task, its space, and what was tried.

    `elsewhere` are points that another process is trying, `absent` guesses that are no points.
    """

    task: Task
    space: Space
    records: dict[str, Record] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    seeds: list[Point] = field(default_factory=list)
    best: Record | None = None
    since_best: int = 0
    _points: tuple[int, list[Point], Array] | None = None

    def add(self, record: Record) -> None:
        """Take a finished trial into account."""
        if record.text in self.records:
            return
        self.records[record.text] = record
        self.since_best += 1
        if record.speedup > (self.best.speedup if self.best else 0.0):
            self.best, self.since_best = record, 0

    def points(self, rng: np.random.Generator) -> tuple[list[Point], Array]:
        """The untried points and what the cost model sees of them, one row each."""
        if self._points is None or self._points[0] != self.space.version:
            made = self.space.points(rng)
            rows = np.array([point_features(self.task, p) for p in made], np.float32)
            self._points = self.space.version, made, rows
        _, points, rows = self._points
        new = [i for i, p in enumerate(points) if not self.knows(p.text)]
        return [points[i] for i in new], rows[new]

    def knows(self, text: str) -> bool:
        """Whether a point was tried, is being tried elsewhere, or does not exist."""
        return text in self.records or text in self.elsewhere or text in self.absent

    @property
    def is_comparable(self) -> bool:
        """Whether the zero-trial kernel ran: without it nothing can be said of the others."""
        return ZERO_TRIAL in self.records and self.records[ZERO_TRIAL].speedup > 0

    @property
    def zero_s(self) -> float | None:
        """Seconds of the zero-trial kernel: the median over all trials that ran beside it."""
        times = [r.reference_s for r in self.records.values() if r.reference_s]
        return float(np.median(times)) if times else None

    @property
    def speedup(self) -> float:
        """The best one so far; the zero-trial schedule itself is 1."""
        return max(1.0, self.best.speedup if self.best else 1.0)

    @property
    def seconds_per_inference(self) -> float:
        """What the kernel is expected to take in one inference with its best schedule."""
        return self.task.calls * (self.zero_s or 0.0) / self.speedup


@dataclass
class _Pool:
    """The untried points of a task, the most promising first, and the best predicted speed-up."""

    points: list[Point]
    expected: float | None


class Search:
    """Proposes trials over all tasks of a model and learns from their results.

    A chunk of trials goes to the kernel with the largest expected gain for the whole model: its
    time per inference, times what the cost model still expects to gain there (less after each
    disappointment) plus an optimism that falls with its trials.
    """

    def __init__(
        self, states: Iterable[TaskState], model: CostModel, rng: np.random.Generator
    ) -> None:
        self.states = {state.task.hash: state for state in states}
        self.model = model
        self._rng = rng

    def propose(self, count: int) -> list[tuple[Task, Point]]:
        """Up to `count` untried points, fewer where none is left; zero-trial schedules first."""
        made: list[tuple[Task, Point]] = []
        fresh = [s for s in self.states.values() if not s.knows(ZERO_TRIAL)]
        fresh.sort(key=lambda s: -s.task.info.macs * s.task.calls)
        for state in fresh[:count]:
            made.append((state.task, Point(0, {})))
        ready = [s for s in self.states.values() if s.is_comparable]
        pools = self._pools(ready)
        pending = dict.fromkeys(pools, 0)
        while len(made) < count and any(p.points for p in pools.values()):
            key = max(
                (k for k, pool in pools.items() if pool.points),
                key=lambda k: self._gradient(self.states[k], pools[k].expected, pending[k]),
            )
            pool = pools[key]
            size = min(_CHUNK, count - len(made), len(pool.points))
            made += [(self.states[key].task, self._take(pool)) for _ in range(size)]
            pending[key] += size
            if len(pending) * _CHUNK >= count:
                del pools[key]  # one chunk a batch: the next one is proposed knowing this one
        return made

    def learn(self, others: Iterable[tuple[Task, Sequence[Record]]] = ()) -> None:
        """Fit the cost model to all records, and those of `others` (neighbouring machines)."""
        rows, targets = [], []
        own = [(s.task, s.space, list(s.records.values())) for s in self.states.values()]
        lent = [(task, self.states[task.hash].space, list(found)) for task, found in others]
        for task, space, records in (*own, *lent):
            for record in records:
                point = space.from_text(record.text)
                if point is not None:
                    rows.append(point_features(task, point))
                    targets.append(record.speedup)
        self.model.fit(rows, targets)

    def expected_s(self) -> float:
        """Seconds of all kernels of one inference, each with its best schedule so far."""
        return sum(s.seconds_per_inference for s in self.states.values())

    def zero_s(self) -> float:
        """Seconds of all kernels of one inference with their zero-trial schedules."""
        return sum(s.task.calls * (s.zero_s or 0.0) for s in self.states.values())

    def _pools(self, states: Sequence[TaskState]) -> dict[str, _Pool]:
        """The untried points of each task, all of them predicted at once."""
        found = [state.points(self._rng) for state in states]
        every = [rows for _, rows in found]
        predicted = self.model.predict(np.concatenate(every)) if every else None
        made, start = {}, 0
        for state, (points, rows) in zip(states, found, strict=True):
            end = start + len(rows)
            speedups = None if predicted is None else predicted[start:end]
            made[state.task.hash] = self._pool(state, points, speedups)
            start = end
        return made

    def _pool(self, state: TaskState, points: list[Point], predicted: Array | None) -> _Pool:
        seeds = [p for p in state.seeds if not state.knows(p.text)]
        if predicted is None:
            ranks = np.array([p.plan + 2.0 * len(p.choices) for p in points])
            order = np.argsort(ranks + self._rng.uniform(0, 3, len(points)), kind="stable")
            return _Pool([*seeds, *(points[i] for i in order)], None)
        order = np.argsort(-predicted, kind="stable")
        return _Pool([*seeds, *(points[i] for i in order)], float(predicted.max(initial=0.0)))

    def _take(self, pool: _Pool) -> Point:
        """Mostly the most promising point, sometimes any."""
        index = 0
        if pool.expected is not None and self._rng.random() < _EXPLORED:
            index = int(self._rng.integers(len(pool.points)))
        return pool.points.pop(index)

    def _gradient(self, state: TaskState, expected: float | None, pending: int) -> float:
        tried = len(state.records) + pending
        forward = 0.0
        if expected is not None and expected > state.speedup:
            forward = (1 - state.speedup / expected) * 0.5 ** (state.since_best / _PATIENCE)
        optimism = _OPTIMISM / (tried + 4)
        time: float = state.seconds_per_inference
        return time * (float(forward * 0.7 ** (pending / _CHUNK)) + optimism)


def point_features(task: Task, point: Point) -> list[float]:
    """What the cost model sees of a point."""
    plan = task.plans[point.plan]
    return features(task.info, plan, point.choices)
