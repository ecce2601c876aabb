"""One run of the search: batches of trials until a limit, a budget or a plateau ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lepton_tvm.compiler.compile import variant_name
from lepton_tvm.compiler.tuned import family_version, trial_key
from lepton_tvm.db import Database, Trial
from lepton_tvm.errors import InputError
from lepton_tvm.farm import artifacts_of
from lepton_tvm.model import Model
from lepton_tvm.targets import Target
from lepton_tvm.tuning.cost_model import KIND, CostModel
from lepton_tvm.tuning.search import Record, Search, TaskState
from lepton_tvm.tuning.space import ZERO_TRIAL, Space
from lepton_tvm.tuning.tasks import Task, Tasks
from lepton_tvm.tuning.trials import TrialLoop, record_of
from lepton_tvm.tuning.tune_result import Status, task_result
from lepton_tvm.workers import Builder, Runner

__all__ = ["Limits", "OnStatus", "SearchRun"]

_BATCH = 48
# A smaller relative gain of the whole model does not count as one.
_PLATEAU_GAIN = 0.001
# Neighbours' best schedules that are tried first, for each kernel.
_SEEDS = 3
# How long until it is looked again whether other processes have finished what they have claimed.
_WAIT_S = 0.5

OnStatus = Callable[[Status], None]


@dataclass(frozen=True)
class Limits:
    """What ends a search: trials in the database, seconds, trials without a gain (None: not)."""

    trials: int | None
    budget_s: float | None
    patience: int | None


@dataclass
class SearchRun:
    """The search for one model on one machine; `search` makes it, then `loop` holds what was found.

    `folder` takes the arguments of kernels. `tell` is told how far it is; `should_stop` is asked
    after every trial whether the search is to end.
    """

    model: Model
    target: Target
    database: Database
    builder: Builder
    runner: Runner
    folder: Path
    job_id: str
    limits: Limits
    threads: int
    winograd: bool
    seed: int
    tell: OnStatus
    should_stop: Callable[[], bool] = lambda: False
    started: float = field(default_factory=time.monotonic)
    search_began: float = field(default_factory=time.monotonic)
    search_s: float = 0.0
    new: int = 0

    def __post_init__(self) -> None:
        #: The fingerprint of the machine that the times are valid for.
        self.hardware = self.runner.hardware
        if self.target.family == "cuda":
            machine = next(artifacts_of(self.runner)).machine
            self.hardware = machine.fingerprint_for(self.target.family)

    def search(self) -> str:
        """Search until something ends it, and say what: see `TuneResult.stopped`."""
        self.say("lowering")
        tasks = Tasks(self.model, self.target, self.folder, winograd=self.winograd, seed=self.seed)
        if not tasks.all:
            raise InputError(
                f"model {self.model.name} has no kernel, so there is nothing to tune: compile it"
            )
        self.loop = self._loop(tasks)
        stopped = self._search(self.loop)
        self.search_s = time.monotonic() - self.search_began
        self._save_model(self.loop)
        return stopped

    def _loop(self, tasks: Tasks) -> TrialLoop:
        self.keys = {
            h: trial_key(h, task.name, self.target, self.hardware, self.threads)
            for h, task in tasks.all.items()
        }
        log = self.database.tuning
        base = next(iter(self.keys.values()))
        version = family_version(self.target.family)
        stored = log.load_cost_model(base.target, base.tvm_version, version, KIND)
        model = CostModel.from_bytes(stored) if stored else CostModel()
        states = [TaskState(task, Space(task.plans)) for task in tasks.all.values()]
        search = Search(states, model, np.random.default_rng(self.seed))
        self.lent = [(task, self._neighbours(search, task)) for task in tasks.all.values()]
        log.add_workloads(
            [(t.hash, t.name, tasks.variant(t, 0).module) for t in tasks.all.values()]
        )
        known = self.database.add_model(
            self.model.name,
            self.model.source_sha256,
            [t.to_json() for t in self.model.inputs],
            [t.to_json() for t in self.model.outputs],
        )
        calls = {t.hash: t.calls for t in tasks.all.values()}
        log.add_tasks(known.id, variant_name(self.model), base.target, calls)
        return TrialLoop(
            tasks, search, self.database, self.keys, self.target, self.builder, self.runner,
            self.job_id, self.limits.trials, self.threads, self._count, self._over,
        )  # fmt: skip

    def _neighbours(self, search: Search, task: Task) -> list[Record]:
        """What was found elsewhere or by other versions: seeds of the search, never results."""
        found = self.database.tuning.neighbours(self.keys[task.hash])
        records = [record_of(trial) for trial in found]
        state = search.states[task.hash]
        for record in sorted(records, key=lambda r: -r.speedup)[:_SEEDS]:
            point = state.space.from_text(record.text)
            if point is not None and record.speedup > 1.0 and record.text != ZERO_TRIAL:
                state.seeds.append(point)
        return records

    def _search(self, loop: TrialLoop) -> str:
        self.search_began = time.monotonic()
        total = loop.refresh()
        plateau = _Plateau(self.limits.patience)
        while True:
            self.say("searching")
            if self.should_stop():
                return "interrupted"
            if self.limits.trials is not None and total >= self.limits.trials:
                return "trials"
            left = self._budget_left()
            if left is not None and left <= 0 and total:
                return "budget"
            if plateau.reached(total, loop.search):
                return "plateau"
            loop.search.learn(self.lent)
            room = _BATCH if self.limits.trials is None else min(_BATCH, self.limits.trials - total)
            if left is not None and self.new:
                room = min(room, int(left * self._rate()) + 1)
            done = loop.run(room)
            total = loop.refresh()
            if done == 0 and (self.limits.trials is None or total < self.limits.trials):
                if not loop.search.propose(1):
                    return "exhausted"
                time.sleep(_WAIT_S)  # others are at work on what is left

    def _save_model(self, loop: TrialLoop) -> None:
        if not self.new:
            return
        loop.search.learn(self.lent)
        data = loop.search.model.to_bytes()
        if data is not None:
            key = next(iter(self.keys.values()))
            self.database.tuning.save_cost_model(
                key.target, key.tvm_version, family_version(self.target.family), KIND, data,
                sum(len(s.records) for s in loop.search.states.values()),
            )  # fmt: skip

    def _count(self, task: Task, trial: Trial) -> None:
        self.new += 1
        self.say("searching")

    def failed(self) -> int:
        """How many trials of the tasks failed, in this run or before."""
        states = self.loop.search.states.values()
        return sum(1 for s in states for r in s.records.values() if not r.speedup)

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    def say(self, phase: str) -> None:
        """Tell how far the run is."""
        loop = getattr(self, "loop", None)
        if loop is None:
            self.tell(Status(phase, 0, self.limits.trials, self.elapsed(), None, 0.0, 0.0, 0.0, 0))
            return
        states = loop.search.states.values()
        done = sum(len(s.records) for s in states)
        rate = self._rate()
        self.tell(
            Status(
                phase=phase,
                done=done,
                wanted=self.limits.trials,
                elapsed_s=self.elapsed(),
                eta_s=self._eta(done, rate) if phase == "searching" else None,
                zero_ms=loop.search.zero_s() * 1e3,
                best_ms=loop.search.expected_s() * 1e3,
                trials_per_s=rate,
                failed=self.failed(),
                kernels=tuple(task_result(s, None) for s in states),
            )
        )

    def _rate(self) -> float:
        """Trials per second of this run's search."""
        spent = self.search_s or time.monotonic() - self.search_began
        return self.new / max(spent, 1e-9)

    def _over(self) -> bool:
        """Whether what is left of a batch is given up."""
        left = self._budget_left()
        return self.should_stop() or (left is not None and left <= 0)

    def _budget_left(self) -> float | None:
        if self.limits.budget_s is None:
            return None
        return self.limits.budget_s - (time.monotonic() - self.search_began)

    def _eta(self, done: int, rate: float) -> float | None:
        wanted = self.limits.trials
        left = (wanted - done) / rate if wanted is not None and rate > 0 else None
        rest = self._budget_left()
        if rest is None:
            return left
        return max(0.0, rest) if left is None else min(left, max(0.0, rest))


@dataclass
class _Plateau:
    """Whether many trials in a row brought the whole model next to nothing."""

    patience: int | None
    best_s: float = float("inf")
    at: int = 0

    def reached(self, total: int, search: Search) -> bool:
        if any(ZERO_TRIAL not in s.records for s in search.states.values()):
            self.at = total  # the time of the whole model is not known yet
            return False
        now = search.expected_s()
        if now < self.best_s * (1 - _PLATEAU_GAIN):
            self.best_s, self.at = now, total
            return False
        return self.patience is not None and total - self.at >= self.patience
