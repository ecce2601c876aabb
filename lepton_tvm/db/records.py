"""What the database answers with: frozen records, one for each kind of row."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = [
    "Artifact",
    "Evaluation",
    "Finished",
    "Job",
    "Measurement",
    "ModelRecord",
    "Trial",
    "TrialKey",
    "Winner",
    "candidate_text",
    "model_id",
    "new_id",
    "now",
]


def now() -> str:
    """The present time in UTC, ISO 8601; such texts sort by time."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")


def new_id() -> str:
    """A fresh random id of 32 hex digits."""
    return uuid.uuid4().hex


def model_id(source_sha256: str, inputs: Sequence[dict[str, Any]]) -> str:
    """The key of a model: its source file and the names, shapes and dtypes of its inputs."""
    signature = [[t["name"], [int(d) for d in t["shape"]], t["dtype"]] for t in inputs]
    return hashlib.sha256(json.dumps([source_sha256, signature]).encode()).hexdigest()


class _Record:
    """A frozen dataclass that can be written as JSON."""

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True)
class ModelRecord(_Record):
    """A source model with fixed input shapes."""

    id: str
    name: str
    source_sha256: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    created_at: str


@dataclass(frozen=True)
class Artifact(_Record):
    """A compiled file. `size_bytes` is that of the file, `macs` multiply-adds of one run."""

    sha256: str
    model_id: str
    variant: str
    precision: str
    target: str
    arch: str
    isa: str
    tvm_version: str | None
    size_bytes: int
    macs: int | None
    manifest: dict[str, Any] = field(repr=False)
    created_at: str = field(default_factory=now)

    @property
    def is_baseline(self) -> bool:
        """Whether nothing that may cost accuracy was done to the model."""
        return self.variant == "float32"


@dataclass(frozen=True)
class Measurement(_Record):
    """Raw samples in seconds; those with one `run_id` were taken in turns on one machine."""

    run_id: str
    artifact_sha256: str
    hardware: str
    machine: dict[str, Any] = field(repr=False)
    threads: int
    median_s: float
    samples_s: list[float] = field(repr=False)
    id: str = field(default_factory=new_id)
    created_at: str = field(default_factory=now)


@dataclass(frozen=True)
class Evaluation(_Record):
    """Accuracy (`metric`, `value`) on `n` samples; agreement and SQNR against the baseline."""

    run_id: str
    artifact_sha256: str
    baseline_sha256: str | None
    data_sha256: str
    n: int
    metric: str | None
    value: float | None
    agreement: float | None
    sqnr_db: float | None
    id: str = field(default_factory=new_id)
    created_at: str = field(default_factory=now)


@dataclass(frozen=True)
class Job(_Record):
    """A piece of work; `state` is running, done, failed or interrupted."""

    id: str
    kind: str
    options: dict[str, Any]
    state: str
    progress: dict[str, Any]
    error: str | None
    host: str
    pid: int
    started_at: str
    finished_at: str | None
    seeds: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialKey(_Record):
    """What a tuning record is valid for, part by part."""

    workload_hash: str
    target: str
    hardware: str
    tvm_version: str
    schedule_version: str


@dataclass(frozen=True)
class Trial(_Record):
    """One tried schedule of a task.

    `candidate` says in canonical text what was tried and stands once under a key; by default it is
    made of `decisions` (answers to the template's choice points; `{}` is the zero-trial schedule)
    or, where those are None, of `trace` (a MetaSchedule trace as JSON). `variant_hash` names the
    workload whose IR that applies to where it is not the task's own. `state` is ok, failed, wrong,
    crashed or timeout; `median_s` is None unless it ran. `reference_s` is the median of the
    zero-trial kernel, timed in turns with it. All times are seconds.
    """

    key: TrialKey
    state: str
    trace: Any = field(repr=False)
    samples_s: list[float] = field(repr=False)
    median_s: float | None
    error: str | None = None
    job_id: str | None = None
    id: str = field(default_factory=new_id)
    created_at: str = field(default_factory=now)
    decisions: dict[str, int] | None = None
    candidate: str = ""
    variant_hash: str | None = None
    reference_s: float | None = None

    def __post_init__(self) -> None:
        if not self.candidate:
            object.__setattr__(self, "candidate", candidate_text(self.decisions, self.trace))


class Finished(NamedTuple):
    """What a tuner needs of a finished trial: the cheap columns."""

    candidate: str
    state: str
    median_s: float | None
    reference_s: float | None
    id: str


@dataclass(frozen=True)
class Winner(_Record):
    """The verdict of a longer comparison: this candidate is to be used for exactly this key.

    `ratio` is the zero-trial kernel's latency over this one's, `ci95` its confidence interval;
    `trial_id` names the trial that first showed it, None in the verdicts of older versions.
    """

    key: TrialKey
    trial_id: str | None
    candidate: str
    decisions: dict[str, int] | None
    ratio: float
    ci95: tuple[float, float]
    job_id: str | None = None
    id: str = field(default_factory=new_id)
    created_at: str = field(default_factory=now)


def candidate_text(decisions: Mapping[str, int] | None, trace: Any = None) -> str:
    """The canonical text of a candidate: equal for equal decisions (or traces), in any order."""
    if decisions is not None:
        return json.dumps(dict(decisions), sort_keys=True, separators=(",", ":"))
    text = json.dumps(trace, sort_keys=True, separators=(",", ":"))
    return f"trace:{hashlib.sha256(text.encode()).hexdigest()}"
