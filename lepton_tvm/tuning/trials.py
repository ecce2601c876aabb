"""Carries trials out: claim, lower, build, run, and commit each one as soon as it is finished."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lepton_tvm.db import Database, Finished, Trial, TrialKey
from lepton_tvm.errors import CompileError
from lepton_tvm.measure import Estimate, speedup_ci
from lepton_tvm.passes.quantize.schemes import SCHEMES
from lepton_tvm.targets import Target
from lepton_tvm.tuning.search import Record, Search
from lepton_tvm.tuning.space import ZERO_TRIAL, Point
from lepton_tvm.tuning.tasks import Task, Tasks
from lepton_tvm.workers import Builder, BuildRequest, Built, Runner, RunRequest, RunResult
from lepton_tvm.workers.trial_requests import fair

__all__ = ["TrialLoop", "record_of", "tolerance_of"]

_LEASE_S = 180.0
# Largest difference from the zero-trial kernel, as a share of its largest output.
_TOLERANCE = {s.precision.name: s.kernel_tolerance for s in SCHEMES.values()} | {"mixed": 1e-3}

# Seconds for which a candidate and the zero-trial kernel run in turns: a first impression.
_BUDGET_S = 0.03

OnTrial = Callable[[Task, Trial], None]


def tolerance_of(task: Task) -> float:
    """How far a float output of the task may be from the zero-trial kernel's."""
    return _TOLERANCE.get(task.info.precision, 1e-4)


def record_of(trial: Trial | Finished) -> Record:
    """A trial as the search sees it."""
    text, median_s, reference_s = trial.candidate, trial.median_s, trial.reference_s
    if trial.state != "ok" or not median_s or not reference_s:
        return Record(text, 0.0, trial_id=trial.id)
    return Record(text, reference_s / median_s, reference_s, trial.id)


@dataclass
class TrialLoop:
    """The trials of one model: `run` makes one batch of them.

    `keys` holds the key of every task. Each finished trial is committed by itself, so whatever
    ends this process loses at most what was in flight; claims keep other processes from doing the
    same. `limit` is how many trials the database is to hold for these keys in all. `should_stop` is
    asked after every trial; what was not run by then is given up.
    """

    tasks: Tasks
    search: Search
    database: Database
    keys: dict[str, TrialKey]
    target: Target
    builder: Builder
    runner: Runner
    job_id: str
    limit: int | None
    threads: int = 1
    on_trial: OnTrial = lambda task, trial: None
    should_stop: Callable[[], bool] = lambda: False
    references: dict[str, str] = field(default_factory=dict)

    def refresh(self) -> int:
        """Take over what this and other processes have finished; how many trials there are."""
        found = self.database.tuning.finished(list(self.keys.values()))
        total = 0
        for key, trials in found.items():
            state = self.search.states.get(key.workload_hash)
            total += len(trials)
            if state is None:
                continue
            for trial in trials:
                state.add(record_of(trial))
        return total

    def run(self, count: int) -> int:
        """Up to `count` trials; how many were made: fewer where others have claimed what is left.

        Raises CompileError when a zero-trial kernel cannot be built: nothing can be compared then.
        """
        self.refresh()
        for state in self.search.states.values():
            state.elsewhere.clear()
        # where another run made the zero trial, only building it tells what its template asks
        states = self.search.states.values()
        self._ensure_references([s.task for s in states if ZERO_TRIAL in s.records])
        granted = self._take(count)
        if not granted:
            return 0
        try:
            self._ensure_references([task for task, _ in granted])
            return self._try(self._comparable(granted))
        finally:
            self.database.tuning.release(self.job_id)

    def time_again(
        self, pairs: Sequence[tuple[Task, Point]], budget_s: float
    ) -> dict[tuple[str, str], Estimate]:
        """Speed-ups over the zero-trial kernels, in turns for `budget_s` seconds each.

        By task's hash and candidate. What cannot be built or run, or computes other numbers, is
        left out.
        """
        if not pairs:
            return {}
        self._ensure_references([task for task, _ in pairs])
        self.tasks.prepare((task, point.plan) for task, point in pairs)
        by_id = {f"{t.hash}:{p.text}": (t, p) for t, p in pairs}
        runs = []
        asked = [self._build_request(t, p) for t, p in pairs]
        for built in map(fair, self.builder.build(asked)):
            if built.path is not None:
                runs.append(
                    replace(self._run_request(*by_id[built.id], built.path), budget_s=budget_s)
                )
        found = {}
        for result in map(fair, self.runner.run(runs)):
            if result.state == "ok":
                task, point = by_id[result.id]
                estimate = speedup_ci(result.reference_s, result.samples_s)
                found[task.hash, point.text] = estimate
        for run in runs:
            _delete(run.path)
        return found

    def _take(self, count: int) -> list[tuple[Task, Point]]:
        """Claim what is proposed; for what others were faster to claim, something else."""
        taken: list[tuple[Task, Point]] = []
        while wanted := self.search.propose(count - len(taken)):
            got = self._claim(wanted)
            taken += got
            if not got or len(taken) == count:
                break
            for task, point in wanted:
                self.search.states[task.hash].elsewhere.add(point.text)
        return taken

    def _claim(self, wanted: Sequence[tuple[Task, Point]]) -> list[tuple[Task, Point]]:
        asked = {(self.keys[t.hash], p.text): (t, p) for t, p in wanted}
        got = self.database.tuning.claim(
            list(self.keys.values()),
            list(asked),
            limit=self.limit,
            job_id=self.job_id,
            lease_s=_LEASE_S,
        )
        return [asked[key, text] for key, text in got]

    def _ensure_references(self, tasks: Iterable[Task]) -> None:
        """Build the zero-trial kernels that candidates are compared with, once each."""
        missing = {t.hash: t for t in tasks if t.hash not in self.references}
        requests = [self._build_request(t, Point(0, {})) for t in missing.values()]
        for request, built in _paired(requests, self.builder.build(requests)):
            task = missing[request.id.partition(":")[0]]
            if built.path is None:
                raise CompileError(
                    f"the zero-trial kernel {task.name} cannot be built ({built.state}: "
                    f"{built.error}); nothing can be compared with it"
                )
            self.references[task.hash] = built.path
            self.search.states[task.hash].space.learn(Point(0, {}), built.asked)

    def _comparable(self, granted: Sequence[tuple[Task, Point]]) -> list[tuple[Task, Point]]:
        """Lower what is granted; without the plans that cannot stand in for the zero-trial one."""
        self.tasks.prepare((task, point.plan) for task, point in granted)
        kept = []
        for task, point in granted:
            if self.tasks.comparable(task, point.plan):
                kept.append((task, point))
                continue
            state = self.search.states[task.hash]
            state.space.drop(point.plan)
            state.absent.add(point.text)
        return kept

    def _try(self, granted: Sequence[tuple[Task, Point]]) -> int:
        tried = [(task, self.tasks.variant(task, point.plan)) for task, point in granted]
        self.database.tuning.add_workloads([(v.hash, t.name, v.module) for t, v in tried])
        by_id = {f"{t.hash}:{p.text}": (t, p) for t, p in granted}
        done, runs, built_by_id = 0, [], {}
        requests = [self._build_request(t, p) for t, p in granted if p.decisions]
        for request, built in _paired(requests, self.builder.build(requests)):
            task, point = by_id[request.id]
            if built.path is None:
                done += self._finish(task, point, built, None)
                continue
            state = self.search.states[task.hash]
            state.space.learn(point, built.asked)
            if dict(built.decisions) != point.choices:
                # the space was guessed and is known better now: this is no point of it
                state.absent.add(point.text)
                _delete(built.path)
                continue
            built_by_id[request.id] = built
            runs.append(self._run_request(task, point, built.path))
        for task, point in granted:
            if not point.decisions:
                path = self.references[task.hash]
                runs.append(self._run_request(task, point, path))
        for result in map(fair, self.runner.run(runs)):
            task, point = by_id[result.id]
            done += self._finish(task, point, built_by_id.get(result.id), result)
            if result.id in built_by_id:
                _delete(built_by_id[result.id].path)
            if self.should_stop():
                break
        self.database.tuning.renew(self.job_id, _LEASE_S)
        return done

    def _finish(
        self, task: Task, point: Point, built: Built | None, result: RunResult | None
    ) -> int:
        """Commit one trial; 1, or 0 where another process was first."""
        state = result.state if result else (built.state if built else "failed")
        error = result.error if result else (built.error if built else None)
        median = statistics.median(result.samples_s) if result and result.samples_s else None
        reference = (
            statistics.median(result.reference_s) if result and result.reference_s else median
        )
        variant = self.tasks.variant(task, point.plan)
        trial = Trial(
            key=self.keys[task.hash],
            state=state,
            trace=built.trace if built else None,
            samples_s=list(result.samples_s) if result else [],
            median_s=median if state == "ok" else None,
            reference_s=reference if state == "ok" else None,
            error=error,
            job_id=self.job_id,
            candidate=point.text,
            decisions=dict(point.decisions),
            variant_hash=variant.hash,
        )
        new = self.database.tuning.finish(trial)
        if new:  # else `refresh` takes over the one that is stored
            self.search.states[task.hash].add(record_of(trial))
            self.on_trial(task, trial)
        return int(new)

    def _build_request(self, task: Task, point: Point) -> BuildRequest:
        return BuildRequest(
            id=f"{task.hash}:{point.text}",
            module=self.tasks.variant(task, point.plan).module,
            target=str(self.target),
            cores=self.target.cores,
            decisions=point.choices,
        )

    def _run_request(self, task: Task, point: Point, path: str) -> RunRequest:
        zero = self.references[task.hash]
        return RunRequest(
            id=f"{task.hash}:{point.text}",
            path=path,
            arguments=self.tasks.variant(task, point.plan).arguments,
            reference=zero if point.text != ZERO_TRIAL else None,
            reference_arguments=self.tasks.variant(task, 0).arguments,
            tolerance=tolerance_of(task),
            budget_s=_BUDGET_S,
            threads=self.threads,
            on_gpu=self.target.family == "cuda",
            model_constants=self.tasks.constants,
        )


def _paired(
    requests: Sequence[BuildRequest], answers: Iterable[Built]
) -> Iterable[tuple[BuildRequest, Built]]:
    by_id = {r.id: r for r in requests}
    return ((by_id[built.id], fair(built)) for built in answers)


def _delete(path: str | None) -> None:
    if path is not None:
        with contextlib.suppress(OSError):
            Path(path).unlink()
