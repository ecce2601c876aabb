"""What is in a database at a glance: counts are read from indexes, never from the trials' rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from lepton_tvm.db.schema import HEAD
from lepton_tvm.db.tables import (
    ArtifactRow,
    JobRow,
    MeasurementRow,
    ModelRow,
    TaskRow,
    TrialRow,
    TuningKeyRow,
    WinnerRow,
    WorkloadRow,
)
from lepton_tvm.db.tuning_keys import PARTS, chunks

if TYPE_CHECKING:
    from lepton_tvm.db.database import Database

__all__ = ["Page", "counts_by_key", "key_groups", "machines", "overview", "task_table"]

Page = tuple[int | None, int]  # how many at most, after how many
_WHERE = PARTS[1:]


def overview(database: Database, page: Page = (None, 0)) -> dict[str, Any]:
    """For `db list`: models, newest first, each with its artifacts and how far it was tuned."""
    with database.reading() as session:
        counts = counts_by_key(session)
        models = _models(session, page, counts)
        tuned = {h for h in session.scalars(sa.select(TaskRow.workload_hash).distinct())}
        strays = [row for row in _keys(session) if row.workload_hash not in tuned]
        jobs = sa.select(JobRow.id, JobRow.kind, JobRow.state, JobRow.started_at)
        newest = jobs.order_by(JobRow.started_at.desc(), JobRow.id).limit(page[0])
        return {
            "db": database.url,
            "schema": HEAD,
            "artifacts_folder": str(database.blobs.folder),
            "models": models,
            "model_count": _count(session, ModelRow.id),
            "tuning_without_model": key_groups(strays, counts),
            "machines": machines(session),
            "jobs": [dict(row._mapping) for row in session.execute(newest)],
            "job_count": _count(session, JobRow.id),
            "workloads": _count(session, WorkloadRow.hash),
            "trials": sum(sum(states.values()) for states in counts.values()),
        }


def counts_by_key(session: Session) -> dict[str, dict[str, int]]:
    """For each key id, how many trials ended in which state."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    wanted = sa.select(TrialRow.key_id, TrialRow.state, sa.func.count())
    for key, state, number in session.execute(wanted.group_by(TrialRow.key_id, TrialRow.state)):
        counts[key][state] = number
    return counts


def key_groups(
    keys: Iterable[TuningKeyRow], counts: dict[str, dict[str, int]]
) -> list[dict[str, Any]]:
    """Sums over the kernels that share target, hardware and versions."""
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in keys:
        parts = tuple(getattr(row, part) for part in _WHERE)
        states = counts.get(row.id, {})
        group = groups.setdefault(
            parts, {**dict(zip(_WHERE, parts, strict=True)), "tasks": 0, "trials": 0, "failed": 0}
        )
        group["tasks"] += 1
        group["trials"] += sum(states.values())
        group["failed"] += sum(states.values()) - states.get("ok", 0)
    return sorted(groups.values(), key=lambda g: [g[part] for part in _WHERE])


def machines(session: Session) -> dict[str, str]:
    """What is known of the machines by their fingerprint: the CPU's name."""
    wanted = sa.select(MeasurementRow.hardware, sa.func.max(MeasurementRow.id))
    newest = [row[1] for row in session.execute(wanted.group_by(MeasurementRow.hardware))]
    known: dict[str, str] = {}
    for ids in chunks(newest):
        rows = sa.select(MeasurementRow.hardware, MeasurementRow.machine)
        for hardware, machine in session.execute(rows.where(MeasurementRow.id.in_(ids))):
            cpu = machine.get("cpu") if isinstance(machine, dict) else None
            if isinstance(cpu, str):
                known[hardware] = cpu[:100]
    return known


def task_table(session: Session, workloads: Sequence[str]) -> list[dict[str, Any]]:
    """Every key of those kernels: trials, failures, the fastest trial, the newest winner."""
    counts = counts_by_key(session)
    rows: dict[str, dict[str, Any]] = {}
    for some in chunks(list(workloads)):
        won = _winners(session, some)
        for key, name, *best in session.execute(_keys_with_best(some)):
            states = counts.get(key.id, {})
            row = {
                "name": name,
                **{part: getattr(key, part) for part in PARTS},
                "trials": sum(states.values()),
                "states": states,
                **_times(*best),
                "winner": won.get(key.id),
            }
            rows.setdefault(key.id, row)  # several trials may be the fastest
    order = (*_WHERE, "name", "workload_hash")
    return sorted(rows.values(), key=lambda r: [r[part] for part in order])


def _models(
    session: Session, page: Page, counts: dict[str, dict[str, int]]
) -> list[dict[str, Any]]:
    wanted = sa.select(ModelRow).order_by(ModelRow.created_at.desc(), ModelRow.id)
    found = session.scalars(wanted.limit(page[0]).offset(page[1])).all()
    latest = _latest_medians(session)
    models = []
    for model in found:
        own = sa.select(*(c for c in sa.inspect(ArtifactRow).columns if c.key != "manifest")).where(
            ArtifactRow.model_id == model.id
        )
        artifacts = [
            {**row._mapping, **_newest(latest.get(row.sha256, {}))}
            for row in session.execute(own.order_by(ArtifactRow.created_at))
        ]
        columns = {c.key: getattr(model, c.key) for c in sa.inspect(ModelRow).columns}
        tuning = key_groups(_keys(session, model.id), counts)
        models.append({**columns, "artifacts": artifacts, "tuning": tuning})
    return models


def _keys(session: Session, model_id: str | None = None) -> Sequence[TuningKeyRow]:
    wanted = sa.select(TuningKeyRow)
    if model_id is not None:
        own = sa.select(TaskRow.workload_hash).where(TaskRow.model_id == model_id)
        wanted = wanted.where(TuningKeyRow.workload_hash.in_(own))
    return session.scalars(wanted).all()


def _latest_medians(session: Session) -> dict[str, dict[str, float]]:
    """Artifact -> machine -> milliseconds, the machine that measured last at the end."""
    wanted = sa.select(
        MeasurementRow.artifact_sha256, MeasurementRow.hardware, MeasurementRow.median_s
    )
    latest: dict[str, dict[str, float]] = {}
    for sha256, hardware, median in session.execute(wanted.order_by(MeasurementRow.created_at)):
        known = latest.setdefault(sha256, {})
        known.pop(hardware, None)
        known[hardware] = median * 1e3
    return latest


def _newest(by_machine: dict[str, float]) -> dict[str, Any]:
    """`latest_ms` by hardware fingerprint, and the one that was measured last of all."""
    last = next(reversed(by_machine.values()), None)
    return {"latest_median_ms": last, "latest_ms": by_machine}


def _keys_with_best(workloads: Sequence[str]) -> Any:
    """Keys of those kernels with the kernel's name and, where there is one, the fastest trial."""
    alike = sa.and_(TrialRow.key_id == TuningKeyRow.id, TrialRow.state == "ok")
    other = aliased(TrialRow)
    least = (
        sa.select(sa.func.min(other.median_s))
        .where(other.key_id == TuningKeyRow.id, other.state == "ok")
        .scalar_subquery()
    )
    return (
        sa.select(
            TuningKeyRow,
            WorkloadRow.name,
            TrialRow.median_s,
            TrialRow.reference_s,
            TrialRow.candidate,
        )
        .select_from(TuningKeyRow)
        .join(WorkloadRow, WorkloadRow.hash == TuningKeyRow.workload_hash)
        .outerjoin(TrialRow, sa.and_(alike, TrialRow.median_s == least))
        .where(TuningKeyRow.workload_hash.in_(workloads))
        .order_by(TuningKeyRow.id, TrialRow.id)
    )


def _times(median: float | None, reference: float | None, candidate: str | None) -> dict[str, Any]:
    return {
        "best_us": None if median is None else median * 1e6,
        "zero_trial_us": None if reference is None else reference * 1e6,
        "best_candidate": candidate,
    }


def _winners(session: Session, workloads: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The newest winner of each key of those kernels."""
    wanted = (
        sa.select(
            WinnerRow.key_id,
            WinnerRow.trial_id,
            WinnerRow.candidate,
            WinnerRow.ratio,
            WinnerRow.ci95_low,
            WinnerRow.ci95_high,
        )
        .join(TuningKeyRow, WinnerRow.key_id == TuningKeyRow.id)
        .where(TuningKeyRow.workload_hash.in_(workloads))
        .order_by(WinnerRow.created_at, WinnerRow.id)
    )
    return {
        key: {"trial_id": trial, "candidate": candidate, "ratio": ratio, "ci95": [low, high]}
        for key, trial, candidate, ratio, low, high in session.execute(wanted)
    }


def _count(session: Session, column: Any) -> int:
    return session.scalar(sa.select(sa.func.count(column))) or 0
