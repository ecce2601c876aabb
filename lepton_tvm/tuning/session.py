"""`tune`: search better schedules for the kernels of a model on the machine that is to run it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lepton_tvm.compiler import CompiledArtifact, compile, variant_name
from lepton_tvm.db import Database, Trial, Winner, open_database
from lepton_tvm.device.farm import farm_target
from lepton_tvm.errors import InputError, TargetError
from lepton_tvm.measure import Estimate
from lepton_tvm.measure.artifacts import ArtifactPlace
from lepton_tvm.model import Model
from lepton_tvm.targets import Target, parse_target
from lepton_tvm.trials import Builder, Runner, artifacts_of, open_builder, open_runner
from lepton_tvm.trials.scratch import Scratch
from lepton_tvm.tuning.confirm import confirm, zero_trial_winner
from lepton_tvm.tuning.cost_model import KIND, CostModel
from lepton_tvm.tuning.keys import trial_key
from lepton_tvm.tuning.result import Status, TaskResult, TuneResult
from lepton_tvm.tuning.search import Record, Search, TaskState
from lepton_tvm.tuning.space import ZERO_TRIAL, Space
from lepton_tvm.tuning.tasks import Task, Tasks
from lepton_tvm.tuning.trial_loop import TrialLoop, record_of
from lepton_tvm.tuning.whole_model import time_in_turns

__all__ = ["tune"]

_BATCH = 48
# A smaller relative gain of the whole model does not count as one.
_PLATEAU_GAIN = 0.001
# Neighbours' best schedules that are tried first, for each kernel.
_SEEDS = 3
_DEFAULT_TRIALS = 256
# How long until it is looked again whether other processes have finished what they have claimed.
_WAIT_S = 0.5

OnStatus = Callable[[Status], None]


def tune(
    model: Model,
    *,
    target: str | Target = "native",
    trials: int | None = None,
    budget: str | float | None = None,
    db: str | Database | None = None,
    output: str | Path | None = None,
    variant: str | None = None,
    winograd: bool = True,
    threads: int = 1,
    tracker: str | None = None,
    key: str | None = None,
    builders: str | None = None,
    patience: int | None = 192,
    seed: int = 0,
    on_status: OnStatus | None = None,
) -> TuneResult:
    """Search better schedules for `model` on this machine, or on a device of a farm.

    `trials` is how many trials the database is to hold for the kernels of this model, target and
    machine (default 256, or no limit where a `budget` is given): what is there counts, so the same
    call goes on where the last one ended, whatever ended it. `budget` is a time for the search
    (lowering before and confirming after come on top): seconds, or text such as `90s`, `10m`, `1h`.
    The zero-trial schedules are trial 0 of each kernel. The best ones are timed again at the end,
    and the whole model in turns with its zero-trial self; where the tuned one is slower, the
    zero-trial schedules stay. The tuned artifact is stored as `compile` does, in the database and
    as `output`; later calls of `compile` use the same schedules.

    `threads` is how many threads kernels run on. `tracker` (HOST:PORT) and `key` name devices of a
    farm that time the kernels, `builders` a Dask scheduler whose workers build them. The search
    ends early when `patience` trials in a row brought less than 0.1 % (None: never). `on_status` is
    told how far the work is.

    Raises InputError for unusable options, TargetError where this machine cannot run the target's
    code and no tracker is given, CompileError, DatabaseError.
    """
    goal = parse_target(target) if tracker is None else farm_target(target, tracker, key)
    said: list[str] = []
    _check(model, trials, budget, threads)
    seconds = parse_budget(budget)
    wanted = trials if trials is not None or seconds is not None else _DEFAULT_TRIALS
    with (
        _opened(db) as database,
        _scratch() as folder,
        _tools(goal, tracker, key, builders, threads, said.append) as (builder, runner),
    ):
        database.check_writable()
        options = {
            "model": model.name, "target": str(goal), "trials": wanted, "budget_s": seconds,
            "threads": threads, "tracker": tracker, "key": key,
        }  # fmt: skip
        with database.job("tune", options, {"search": seed}) as job:
            run = _Run(
                model, goal, database, builder, runner, folder, job.id, wanted, seconds,
                threads, winograd, patience, seed, on_status or (lambda status: None), said,
            )  # fmt: skip
            return run.all(output, variant or variant_name(model))


def parse_budget(budget: str | float | None) -> float | None:
    """Seconds of `90`, `"90s"`, `"10m"` or `"1h"`; None of None. Raises InputError."""
    if budget is None:
        return None
    text = str(budget).strip()
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:])
    try:
        value = float(text[:-1] if unit else text) * (unit or 1.0)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"budget {budget!r} is not a time: give seconds, or 90s, 10m, 1h")
    return value


def _check(model: Model, trials: int | None, budget: object, threads: int) -> None:
    if not isinstance(model, Model):
        raise InputError(
            f"tune takes a Model, found {type(model).__name__}; load_model makes one of a file"
        )
    if trials is not None and trials < 1:
        raise InputError(f"trials is {trials}: it must be at least 1")
    if threads < 1:
        raise InputError(f"threads is {threads}: it must be at least 1")


@dataclass
class _Run:
    model: Model
    target: Target
    database: Database
    builder: Builder
    runner: Runner
    folder: Path
    job_id: str
    limit: int | None
    budget_s: float | None
    threads: int
    winograd: bool
    patience: int | None
    seed: int
    tell: OnStatus
    said: list[str]  # what happened to devices
    started: float = field(default_factory=time.monotonic)
    new: int = 0
    search_began: float = field(default_factory=time.monotonic)

    def all(self, output: str | Path | None, variant: str) -> TuneResult:
        self._say("lowering")
        tasks = Tasks(self.model, self.target, self.folder, winograd=self.winograd, seed=self.seed)
        loop = self._loop(tasks)
        stopped = self._search(loop)
        self._save_model(loop.search.model, loop)
        winners = self._winners(loop)
        with artifacts_of(self.runner) as place:
            return self._finish(loop, winners, stopped, output, variant, place)

    # the search

    def _loop(self, tasks: Tasks) -> TrialLoop:
        self.keys = {
            h: trial_key(h, self.target, self.runner.hardware, self.threads) for h in tasks.all
        }
        log = self.database.tuning
        base = next(iter(self.keys.values()))
        stored = log.load_cost_model(base.target, base.tvm_version, base.schedule_version, KIND)
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
            self.job_id, self.limit, self.threads, self._count,
        )  # fmt: skip

    def _neighbours(self, search: Search, task: Task) -> list[Record]:
        """What other machines with this target found: seeds of the search, never results."""
        found = self.database.tuning.neighbours(self.keys[task.hash])
        records = [record_of(t.candidate, t.state, t.median_s, t.reference_s) for t in found]
        state = search.states[task.hash]
        for record in sorted(records, key=lambda r: -r.speedup)[:_SEEDS]:
            point = state.space.from_text(record.text)
            if point is not None and record.speedup > 1.0 and record.text != ZERO_TRIAL:
                state.seeds.append(point)
        return records

    def _search(self, loop: TrialLoop) -> str:
        self.loop = loop
        self.search_began = time.monotonic()
        total = loop.refresh()
        plateau = _Plateau(self.patience)
        while True:
            self._say("searching")
            if self.limit is not None and total >= self.limit:
                return "trials"
            left = self._budget_left()
            if left is not None and left <= 0 and total:
                return "budget"
            if plateau.reached(total, loop.search):
                return "plateau"
            loop.search.learn(self.lent)
            room = _BATCH if self.limit is None else min(_BATCH, self.limit - total)
            if left is not None and self.new:
                room = min(room, int(left * self._rate()) + 1)
            done = loop.run(room)
            total = loop.refresh()
            if done == 0 and (self.limit is None or total < self.limit):
                if not loop.search.propose(1):
                    return "exhausted"
                time.sleep(_WAIT_S)  # others are at work on what is left

    def _save_model(self, model: CostModel, loop: TrialLoop) -> None:
        if not self.new:
            return
        loop.search.learn(self.lent)
        data = model.to_bytes()
        if data is not None:
            key = next(iter(self.keys.values()))
            self.database.tuning.save_cost_model(
                key.target, key.tvm_version, key.schedule_version, KIND, data,
                sum(len(s.records) for s in loop.search.states.values()),
            )  # fmt: skip

    # the outcome

    def _winners(self, loop: TrialLoop) -> dict[str, Winner]:
        known = self.database.tuning.winners(list(self.keys.values()))
        if not self.new and len(known) == len(self.keys):
            return {key.workload_hash: winner for key, winner in known.items()}
        self._say("confirming")
        winners = confirm(loop)
        self.database.tuning.add_winners(list(winners.values()))
        return winners

    def _finish(
        self,
        loop: TrialLoop,
        winners: dict[str, Winner],
        stopped: str,
        output: str | Path | None,
        variant: str,
        place: ArtifactPlace,
    ) -> TuneResult:
        notes = list(dict.fromkeys(self.said))
        self._say("compiling")
        zero = compile(
            self.model, target=self.target, db=self.database, winograd=self.winograd,
            variant=f"{variant}, zero trials", tuned=False,
        )  # fmt: skip
        made = self._compile(output, variant)
        times: tuple[Estimate, Estimate, Estimate] | None = None
        if any(w.decisions for w in winners.values()):
            self._say("comparing")
            times = time_in_turns(self.database, place, zero, made, self.threads, seed=self.seed)
            if times[2].high < 1.0:
                notes.append(
                    f"the tuned kernels made the whole model slower ({times[2].value:.3f}x), "
                    "so the zero-trial schedules stay"
                )
                winners = {
                    key: zero_trial_winner(loop, state) for key, state in loop.search.states.items()
                }
                self.database.tuning.add_winners(list(winners.values()))
                made, times = self._compile(output, variant), None
        else:
            notes.append("no kernel has a schedule that is surely faster: nothing was changed")
        return TuneResult(
            model=self.model.name,
            variant=variant,
            target=str(self.target),
            machine=place.machine.to_json(),
            db=self.database.url,
            threads=self.threads,
            trials=sum(len(s.records) for s in loop.search.states.values()),
            new_trials=self.new,
            failed=self._failed(loop),
            seconds=self._elapsed(),
            stopped=stopped,
            artifact=made.path,
            sha256=made.sha256,
            zero_ms=times[0].scaled(1e3) if times else None,
            tuned_ms=times[1].scaled(1e3) if times else None,
            speedup=times[2] if times else None,
            kernels=tuple(
                _task_result(state, winners.get(key)) for key, state in loop.search.states.items()
            ),
            notes=tuple(notes),
        )

    def _compile(self, output: str | Path | None, variant: str) -> CompiledArtifact:
        return compile(
            self.model, target=self.target, db=self.database, output=output, variant=variant,
            winograd=self.winograd, hardware=self.runner.hardware, threads=self.threads,
        )  # fmt: skip

    # telling

    def _count(self, task: Task, trial: Trial) -> None:
        self.new += 1
        self._say("searching")

    def _failed(self, loop: TrialLoop) -> int:
        states = loop.search.states.values()
        return sum(1 for s in states for r in s.records.values() if not r.speedup)

    def _elapsed(self) -> float:
        return time.monotonic() - self.started

    def _say(self, phase: str) -> None:
        loop = getattr(self, "loop", None)
        if loop is None:
            self.tell(Status(phase, 0, self.limit, self._elapsed(), None, 0.0, 0.0, 0.0, 0))
            return
        states = loop.search.states.values()
        done = sum(len(s.records) for s in states)
        rate = self._rate()
        self.tell(
            Status(
                phase=phase,
                done=done,
                wanted=self.limit,
                elapsed_s=self._elapsed(),
                eta_s=self._eta(done, rate) if phase == "searching" else None,
                zero_ms=loop.search.zero_s() * 1e3,
                best_ms=loop.search.expected_s() * 1e3,
                trials_per_s=rate,
                failed=self._failed(loop),
                kernels=tuple(_task_result(s, None) for s in states),
            )
        )

    def _rate(self) -> float:
        """Trials per second of this run."""
        return self.new / max(time.monotonic() - self.search_began, 1e-9)

    def _budget_left(self) -> float | None:
        if self.budget_s is None:
            return None
        return self.budget_s - (time.monotonic() - self.search_began)

    def _eta(self, done: int, rate: float) -> float | None:
        left = (self.limit - done) / rate if self.limit is not None and rate > 0 else None
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
        now = search.expected_s()
        untried = any(ZERO_TRIAL not in s.records for s in search.states.values())
        if untried or now < self.best_s * (1 - _PLATEAU_GAIN):
            self.best_s, self.at = now, total
            return False
        return self.patience is not None and total - self.at >= self.patience


def _task_result(state: TaskState, winner: Winner | None) -> TaskResult:
    zero = state.zero_s
    return TaskResult(
        name=state.task.name,
        op=state.task.info.op,
        calls=state.task.calls,
        trials=len(state.records),
        failed=sum(1 for r in state.records.values() if not r.speedup),
        zero_us=zero * 1e6 if zero else None,
        speedup=winner.ratio if winner else state.speedup,
        ci95=(winner.ci95[0], winner.ci95[1]) if winner else (state.speedup, state.speedup),
        decisions=dict(winner.decisions or {}) if winner else {},
    )


@contextmanager
def _opened(db: str | Database | None) -> Iterator[Database]:
    if isinstance(db, Database):
        yield db
        return
    with open_database(db) as database:
        yield database


@contextmanager
def _scratch() -> Iterator[Path]:
    scratch = Scratch()  # the next one removes what a killed process leaves
    try:
        yield scratch.path
    finally:
        scratch.close()


@contextmanager
def _tools(
    target: Target,
    tracker: str | None,
    key: str | None,
    builders: str | None,
    threads: int,
    say: Callable[[str], None],
) -> Iterator[tuple[Builder, Runner]]:
    if tracker is None and not target.is_native:
        raise TargetError(
            f"this machine cannot run code for {target}, so nothing can be timed here: name a "
            "tracker and a key of devices that can"
        )
    runner = open_runner(tracker, key, threads=threads, say=say)
    try:
        builder = open_builder(builders)
        try:
            yield builder, runner
        finally:
            builder.close()
    finally:
        runner.close()
