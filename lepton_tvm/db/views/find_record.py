"""Finding the one record that a name, or the beginning of an id, stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from lepton_tvm.db.records import TrialKey
from lepton_tvm.db.tables import (
    ArtifactRow,
    EvaluationRow,
    JobRow,
    MeasurementRow,
    ModelRow,
    TaskRow,
    TrialRow,
    TuningKeyRow,
    WorkloadRow,
)
from lepton_tvm.db.tuning_keys import PARTS, key_id, key_of
from lepton_tvm.db.views.overview import Page, machines, task_table
from lepton_tvm.errors import InputError

if TYPE_CHECKING:
    from lepton_tvm.db.database import Database

__all__ = ["find", "kernels_of"]

# What can be named, by the column that holds its id.
_KINDS: dict[str, Any] = {
    "model": ModelRow.id,
    "artifact": ArtifactRow.sha256,
    "job": JobRow.id,
    "kernel": WorkloadRow.hash,
    "trial": TrialRow.id,
}
_BULKY = {"ir", "manifest"}


def find(database: Database, key: str, page: Page = (None, 0)) -> dict[str, Any]:
    """The one model, artifact, job, kernel or trial that `key` names, with what belongs to it.

    `page` bounds the trials of a kernel. Raises InputError unless there is just one.
    """
    if not key:
        raise InputError("the id is empty; lepton-tvm db list shows all ids")
    with database.reading() as session:
        kind, found = _one(session, key, database.url)
        row = session.get(_KINDS[kind].class_, found)
        values = _values(row)
        if kind == "job":  # a job has a kind of its own
            values["job_kind"] = values.pop("kind")
        about = {"kind": kind, **values}
        if kind == "model":
            return {**about, **_of_model(session, found)}
        if kind == "artifact":
            return {**about, **_of_artifact(session, found)}
        if kind == "kernel":
            return {**about, **_of_kernel(session, found, page)}
        if isinstance(row, TrialRow):
            return {**about, "key": key_of(session.get(TuningKeyRow, row.key_id)).to_json()}
        return about


def kernels_of(session: Session, key: str, url: str) -> list[str]:
    """The workload hashes that a model or a kernel stands for. Raises InputError."""
    kind, found = _one(session, key, url, kinds=("model", "kernel"))
    if kind == "kernel":
        return [found]
    own = sa.select(TaskRow.workload_hash).where(TaskRow.model_id == found).distinct()
    return list(session.scalars(own))


def _one(
    session: Session, key: str, url: str, kinds: tuple[str, ...] = tuple(_KINDS)
) -> tuple[str, str]:
    found = []
    for kind in kinds:
        column = _KINDS[kind]
        wanted = _begins(column, key)
        if kind == "model":
            wanted = sa.or_(wanted, ModelRow.name == key, _begins(ModelRow.source_sha256, key))
        if kind == "kernel":
            wanted = sa.or_(wanted, WorkloadRow.name == key)
        ids = session.scalars(sa.select(column).where(wanted).order_by(column).limit(6))
        found += [(kind, name) for name in ids]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"nothing in {url} is named {key!r}; see lepton-tvm db list")
    names = ", ".join(f"{kind} {ascii(name)[1:-1]}" for kind, name in found[:5])
    count = len(found) if len(found) < 6 else "several"
    raise InputError(f"{key!r} names {count} records ({names}); give more of the id")


def _begins(column: Any, key: str) -> Any:
    """Ids that begin with `key`, found by the index: `g` comes after every hex digit."""
    return sa.and_(column >= key, column < key + "g")


def _of_model(session: Session, model_id: str) -> dict[str, Any]:
    artifacts = session.scalars(sa.select(ArtifactRow).where(ArtifactRow.model_id == model_id))
    tasks = session.scalars(sa.select(TaskRow).where(TaskRow.model_id == model_id)).all()
    return {
        "artifacts": [_values(row) for row in artifacts],
        "kernels": [
            {name: getattr(t, name) for name in ("workload_hash", "variant", "target", "calls")}
            for t in tasks
        ],
        "tuning": task_table(session, sorted({t.workload_hash for t in tasks})),
        "machines": machines(session),
    }


def _of_artifact(session: Session, sha256: str) -> dict[str, Any]:
    def rows(table: Any) -> list[dict[str, Any]]:
        wanted = sa.select(table).where(table.artifact_sha256 == sha256)
        return [_values(row) for row in session.scalars(wanted.order_by(table.created_at))]

    return {"measurements": rows(MeasurementRow), "evaluations": rows(EvaluationRow)}


def _of_kernel(session: Session, workload: str, page: Page) -> dict[str, Any]:
    limit, offset = page
    tuning = task_table(session, [workload])
    for group in tuning:
        wanted = (
            sa.select(
                TrialRow.id, TrialRow.candidate, TrialRow.state, TrialRow.median_s,
                TrialRow.reference_s, TrialRow.error,
            )
            .where(TrialRow.key_id == key_id(_key(group)))
            .order_by(TrialRow.state != "ok", TrialRow.median_s.is_(None), TrialRow.median_s)
        )  # fmt: skip
        rows = session.execute(wanted.limit(limit).offset(offset)).all()
        group["shown"] = [dict(row._mapping) for row in rows]
    return {"tuning": tuning, "machines": machines(session)}


def _key(group: dict[str, Any]) -> TrialKey:
    return TrialKey(*(group[part] for part in PARTS))


def _values(row: Any) -> dict[str, Any]:
    names = [c.key for c in sa.inspect(type(row)).columns if c.key not in _BULKY]
    return {name: getattr(row, name) for name in names}
