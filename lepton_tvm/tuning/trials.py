"""Carries trials out: claim, lower, build, run, and commit each one as soon as it is finished."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lepton_tvm.db import Trial, TrialKey
from lepton_tvm.errors import CompileError
from lepton_tvm.measure import Estimate, speedup_ci
from lepton_tvm.passes.quantize.schemes import SCHEMES
from lepton_tvm.tuning.search import Search
from lepton_tvm.tuning.space import ZERO_TRIAL, Candidate
from lepton_tvm.tuning.task_state import summary_of
from lepton_tvm.tuning.tasks import Task, Tasks
from lepton_tvm.tuning.tune_options import TuneOptions
from lepton_tvm.tuning.workshop import Workshop
from lepton_tvm.workers import BuildRequest, Built, RunRequest, RunResult
from lepton_tvm.workers.trial_requests import fair

__all__ = ["Trials", "Watch", "tolerance_of"]

_LEASE_S = 180.0
# Largest difference from the zero-trial kernel, as a share of its largest output.
_TOLERANCE = {s.precision.name: s.kernel_tolerance for s in SCHEMES.values()} | {"mixed": 1e-3}

# Seconds for which a candidate and the zero-trial kernel run in turns: a first impression.
_BUDGET_S = 0.03


def tolerance_of(task: Task) -> float:
    """How far a float output of the task may be from the zero-trial kernel's."""
    return _TOLERANCE.get(task.info.precision, 1e-4)


#: A candidate, and the task that it is of.
Pair = tuple[Task, Candidate]


@dataclass(frozen=True)
class Watch:
    """Who looks on: `on_trial` is told of each trial of a batch.

    `should_stop` is asked after each run; where it says so, what was not run by then is given up.
    """

    on_trial: Callable[[], None]
    should_stop: Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The trials of one model: `run` makes one batch of them.

    `keys` holds the key of every task. Each finished trial is committed by itself, so whatever
    ends this process loses at most what was in flight; claims keep other processes from doing the
    same. `references` are the libraries of the zero-trial kernels that were built, by task.
    """

    shop: Workshop
    options: TuneOptions
    tasks: Tasks
    search: Search
    keys: Mapping[str, TrialKey]
    references: dict[str, str] = field(default_factory=dict)

    def refresh(self) -> int:
        """Take over what this and other processes have finished; how many trials there are."""
        found = self.shop.database.tuning.finished(list(self.keys.values()))
        total = 0
        for key, trials in found.items():
            state = self.search.states.get(key.workload_hash)
            total += len(trials)
            if state is None:
                continue
            for trial in trials:
                state.add(summary_of(trial))
        return total

    def run(self, count: int, watch: Watch) -> int:
        """Up to `count` trials; how many were made: fewer where others have claimed what is left.

        Raises CompileError when a zero-trial kernel cannot be built: nothing can be compared then.
        """
        self.refresh()
        for state in self.search.states.values():
            state.elsewhere.clear()
        # where another run made the zero trial, only building it tells what its template asks
        states = self.search.states.values()
        self._ensure_references([s.task for s in states if ZERO_TRIAL in s.trials])
        granted = self._take(count)
        if not granted:
            return 0
        try:
            self._ensure_references([task for task, _ in granted])
            return self._try(self._comparable(granted), watch)
        finally:
            self.shop.database.tuning.release(self.shop.job_id)

    def time_again(self, pairs: Sequence[Pair], budget_s: float) -> dict[tuple[str, str], Estimate]:
        """Speed-ups over the zero-trial kernels, in turns for `budget_s` seconds each.

        By task's hash and candidate. What cannot be built or run, or computes other numbers, is
        left out.
        """
        if not pairs:
            return {}
        self._ensure_references([task for task, _ in pairs])
        self.tasks.prepare((task, candidate.plan) for task, candidate in pairs)
        by_id = {_id(*pair): pair for pair in pairs}
        runs = []
        asked = [self._build_request(t, c) for t, c in pairs]
        for built in map(fair, self.shop.builder.build(asked)):
            if built.path is not None:
                runs.append(
                    replace(self._run_request(*by_id[built.id], built.path), budget_s=budget_s)
                )
        found = {}
        for result in map(fair, self.shop.runner.run(runs)):
            if result.state == "ok":
                task, candidate = by_id[result.id]
                estimate = speedup_ci(result.reference_s, result.samples_s)
                found[task.hash, candidate.text] = estimate
        for run in runs:
            _delete(run.path)
        return found

    def _take(self, count: int) -> list[Pair]:
        """Claim what is proposed; for what others were faster to claim, something else."""
        taken: list[Pair] = []
        while wanted := self.search.propose(count - len(taken)):
            got = self._claim(wanted)
            taken += got
            if not got or len(taken) == count:
                break
            for task, candidate in wanted:
                self.search.states[task.hash].elsewhere.add(candidate.text)
        return taken

    def _claim(self, wanted: Sequence[Pair]) -> list[Pair]:
        asked = {(self.keys[t.hash], c.text): (t, c) for t, c in wanted}
        got = self.shop.database.tuning.claim(
            list(self.keys.values()),
            list(asked),
            limit=self.options.trials,
            job_id=self.shop.job_id,
            lease_s=_LEASE_S,
        )
        return [asked[key, text] for key, text in got]

    def _ensure_references(self, tasks: Iterable[Task]) -> None:
        """Build the zero-trial kernels that candidates are compared with, once each."""
        missing = {t.hash: t for t in tasks if t.hash not in self.references}
        requests = [self._build_request(t, Candidate(0, {})) for t in missing.values()]
        for request, built in _paired(requests, self.shop.builder.build(requests)):
            task = missing[request.id.partition(":")[0]]
            if built.path is None:
                raise CompileError(
                    f"the zero-trial kernel {task.name} cannot be built ({built.state}: "
                    f"{built.error}); nothing can be compared with it"
                )
            self.references[task.hash] = built.path
            self.search.states[task.hash].space.learn(Candidate(0, {}), built.asked)

    def _comparable(self, granted: Sequence[Pair]) -> list[Pair]:
        """Lower what is granted; without the plans that cannot stand in for the zero-trial one."""
        self.tasks.prepare((task, candidate.plan) for task, candidate in granted)
        kept = []
        for task, candidate in granted:
            if self.tasks.comparable(task, candidate.plan):
                kept.append((task, candidate))
                continue
            state = self.search.states[task.hash]
            state.space.drop(candidate.plan)
            state.absent.add(candidate.text)
        return kept

    def _try(self, granted: Sequence[Pair], watch: Watch) -> int:
        """Build and run what was granted; how many trials that made."""
        tried = [(task, self.tasks.lowering(task, candidate.plan)) for task, candidate in granted]
        self.shop.database.tuning.add_workloads([(v.hash, t.name, v.module) for t, v in tried])
        by_id = {_id(*pair): pair for pair in granted}
        built, runs, done = self._build(by_id, watch)
        for task, candidate in granted:
            if not candidate.decisions:
                runs.append(self._run_request(task, candidate, self.references[task.hash]))
        for result in map(fair, self.shop.runner.run(runs)):
            done += self._finish(*by_id[result.id], built.get(result.id), result, watch)
            if result.id in built:
                _delete(built[result.id].path)
            if watch.should_stop():
                break
        self.shop.database.tuning.renew(self.shop.job_id, _LEASE_S)
        return done

    def _build(
        self, by_id: Mapping[str, Pair], watch: Watch
    ) -> tuple[dict[str, Built], list[RunRequest], int]:
        """What was built, by id, its runs, and how many trials ended, since theirs was not."""
        done, found, runs = 0, {}, []
        requests = [self._build_request(t, c) for t, c in by_id.values() if c.decisions]
        for request, built in _paired(requests, self.shop.builder.build(requests)):
            task, candidate = by_id[request.id]
            if built.path is None:
                done += self._finish(task, candidate, built, None, watch)
                continue
            state = self.search.states[task.hash]
            state.space.learn(candidate, built.asked)
            if dict(built.decisions) == candidate.choices:
                found[request.id] = built
                runs.append(self._run_request(task, candidate, built.path))
                continue
            # The space was guessed and is known better now: this is no candidate of it.
            state.absent.add(candidate.text)
            _delete(built.path)
        return found, runs, done

    def _finish(
        self,
        task: Task,
        candidate: Candidate,
        built: Built | None,
        result: RunResult | None,
        watch: Watch,
    ) -> int:
        """Commit one trial; 1, or 0 where another process was first."""
        state = result.state if result else (built.state if built else "failed")
        error = result.error if result else (built.error if built else None)
        median = statistics.median(result.samples_s) if result and result.samples_s else None
        reference = (
            statistics.median(result.reference_s) if result and result.reference_s else median
        )
        lowering = self.tasks.lowering(task, candidate.plan)
        trial = Trial(
            key=self.keys[task.hash],
            state=state,
            trace=built.trace if built else None,
            samples_s=list(result.samples_s) if result else [],
            median_s=median if state == "ok" else None,
            reference_s=reference if state == "ok" else None,
            error=error,
            job_id=self.shop.job_id,
            candidate=candidate.text,
            decisions=dict(candidate.decisions),
            variant_hash=lowering.hash,
        )
        new = self.shop.database.tuning.finish(trial)
        if new:  # else `refresh` takes over the one that is stored
            self.search.states[task.hash].add(summary_of(trial))
            watch.on_trial()
        return int(new)

    def _build_request(self, task: Task, candidate: Candidate) -> BuildRequest:
        return BuildRequest(
            id=_id(task, candidate),
            module=self.tasks.lowering(task, candidate.plan).module,
            target=str(self.shop.target),
            cores=self.shop.target.cores,
            decisions=candidate.choices,
        )

    def _run_request(self, task: Task, candidate: Candidate, path: str) -> RunRequest:
        zero = self.references[task.hash]
        return RunRequest(
            id=_id(task, candidate),
            path=path,
            arguments=self.tasks.lowering(task, candidate.plan).arguments,
            reference=zero if candidate.text != ZERO_TRIAL else None,
            reference_arguments=self.tasks.lowering(task, 0).arguments,
            tolerance=tolerance_of(task),
            budget_s=_BUDGET_S,
            threads=self.options.threads,
            on_gpu=self.shop.target.on_gpu,
            model_constants=self.tasks.constants,
        )


def _id(task: Task, candidate: Candidate) -> str:
    """What a candidate is called between this process and those that build and run."""
    return f"{task.hash}:{candidate.text}"


def _paired(
    requests: Sequence[BuildRequest], answers: Iterable[Built]
) -> Iterable[tuple[BuildRequest, Built]]:
    by_id = {r.id: r for r in requests}
    return ((by_id[built.id], fair(built)) for built in answers)


def _delete(path: str | None) -> None:
    if path is not None:
        with contextlib.suppress(OSError):
            Path(path).unlink()
