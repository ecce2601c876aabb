"""What a tuning run answers with, and what it tells while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lepton_tvm.db import Winner
from lepton_tvm.measure import Estimate
from lepton_tvm.tuning.task_state import TaskState

__all__ = ["Status", "TaskResult", "TuneResult", "task_result"]


_ENDED = {
    "trials": "all trials are done",
    "budget": "the time is over",
    "plateau": "the last trials gained nothing",
    "exhausted": "nothing is left to try",
    "interrupted": "interrupted",
}


@dataclass(frozen=True)
class TaskResult:
    """A kernel of the model: its trials, and its schedule after the search.

    Times are of one call, `calls` of them make an inference. `speedup` is that of the schedule
    which won, over the zero-trial schedule (1 where that stayed), `ci95` its interval.
    """

    name: str
    op: str
    calls: int
    trials: int
    failed: int
    zero_us: float | None
    speedup: float
    ci95: tuple[float, float]
    decisions: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return {
            "name": self.name,
            "op": self.op,
            "calls": self.calls,
            "trials": self.trials,
            "failed": self.failed,
            "zero_trial_us": self.zero_us,
            "speedup": {"ratio": self.speedup, "ci95": list(self.ci95)},
            "decisions": dict(self.decisions),
        }


@dataclass(frozen=True)
class Status:
    """How far a run is: trials in the database, latencies of all kernels of an inference together.

    `zero_ms` is with zero-trial schedules, `best_ms` with the best so far. `eta_s` is None where it
    cannot be told.
    """

    phase: str
    done: int
    wanted: int | None
    elapsed_s: float
    eta_s: float | None
    zero_ms: float
    best_ms: float
    trials_per_s: float
    failed: int
    kernels: tuple[TaskResult, ...] = ()


@dataclass(frozen=True)
class TuneResult:
    """The outcome: where the tuned artifact lies, and how it compares with the zero-trial one.

    `speedup` is zero-trial latency over tuned latency of the whole model, timed in turns on
    `machine`; None where the model was not run as a whole. `seconds` is the whole run, `search_s`
    the search in it, without lowering before and confirming after. `stopped` says why the search
    ended: `trials`, `budget`, `plateau`, `exhausted` (nothing is left to try) or `interrupted`.
    """

    model: str
    variant: str
    target: str
    machine: Mapping[str, Any]
    db: str
    threads: int
    trials: int
    new_trials: int
    failed: int
    seconds: float
    search_s: float
    stopped: str
    artifact: Path
    sha256: str
    zero_ms: Estimate | None
    tuned_ms: Estimate | None
    speedup: Estimate | None
    kernels: tuple[TaskResult, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def report(self) -> tuple[str, ...]:
        """What was done, and what was left and why."""
        return (str(self), *self.notes)

    def to_json(self) -> dict[str, Any]:
        """JSON values of all fields."""
        return {
            "model": self.model,
            "name": self.variant,
            "target": self.target,
            "machine": dict(self.machine),
            "db": self.db,
            "threads": self.threads,
            "trials": self.trials,
            "new_trials": self.new_trials,
            "failed_trials": self.failed,
            "seconds": self.seconds,
            "search_seconds": self.search_s,
            "stopped": self.stopped,
            "artifact": str(self.artifact),
            "sha256": self.sha256,
            "zero_trial_latency_ms": _json(self.zero_ms),
            "latency_ms": _json(self.tuned_ms),
            "speedup": (
                {"ratio": self.speedup.value, "ci95": self.speedup.ci()} if self.speedup else None
            ),
            "kernels": [k.to_json() for k in self.kernels],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        changed = sum(1 for k in self.kernels if k.decisions)
        head = (
            f"{self.artifact}: {self.variant} for {self.target}, {self.trials} trials "
            f"({self.new_trials} new, {self.failed} failed; {_ENDED[self.stopped]}), {changed} of "
            f"{len(self.kernels)} kernels with another schedule"
        )
        if self.speedup is None or self.tuned_ms is None or self.zero_ms is None:
            return head
        low, high = self.speedup.ci()
        return (
            f"{head}\n{self.zero_ms.value:.3f} ms with zero trials, {self.tuned_ms.value:.3f} ms "
            f"tuned: {self.speedup.value:.3f}x [{low:.3f}, {high:.3f}]"
        )


def _json(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {"median": estimate.value, "ci95": estimate.ci()}


def task_result(state: TaskState, winner: Winner | None) -> TaskResult:
    """What is known of a task; the verdict on it, where there is one."""
    zero = state.zero_s
    return TaskResult(
        name=state.task.name,
        op=state.task.info.op,
        calls=state.task.calls,
        trials=len(state.trials),
        failed=state.failed,
        zero_us=zero * 1e6 if zero else None,
        speedup=winner.ratio if winner else state.speedup,
        ci95=(winner.ci95[0], winner.ci95[1]) if winner else (state.speedup, state.speedup),
        decisions=dict(winner.decisions or {}) if winner else {},
    )
