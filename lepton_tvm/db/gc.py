"""Deleting unused files and, on request, records of older schedules."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from lepton_tvm.db import claims
from lepton_tvm.db.blobs import age
from lepton_tvm.db.database import Database
from lepton_tvm.db.tables import (
    ClaimRow,
    CostModelRow,
    TaskRow,
    TrialRow,
    TuningKeyRow,
    WinnerRow,
    WorkloadRow,
)
from lepton_tvm.errors import ArtifactError

__all__ = ["GcReport", "gc"]


@dataclass(frozen=True)
class GcReport:
    """What was cleared, or would be: files nothing refers to, their bytes, claims of processes that
    are gone, trials of older schedules; and `damaged`, the artifacts that are not whole."""

    removed: tuple[str, ...]
    freed_bytes: int
    damaged: tuple[str, ...]
    claims: int = 0
    trials: int = 0
    kernels: int = 0

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return {**vars(self), "removed": list(self.removed), "damaged": list(self.damaged)}


def gc(
    database: Database,
    *,
    grace_s: float = 3600.0,
    dry_run: bool = False,
    schedules: Collection[str] | None = None,
) -> GcReport:
    """Delete artifact files that no record names, leftovers of killed writers, and dead claims.

    Files younger than `grace_s` seconds stay: their record may be about to be written. Artifacts
    that are recorded but missing or damaged are listed, not deleted. With `schedules`, the versions
    that are in use, trials, winners and cost models of all others go, and kernels that are left
    without any. With `dry_run` nothing is deleted.
    """
    if not dry_run:
        database.check_writable()
    known = {a.sha256 for a in database.artifacts()}
    stray = [p for sha, p in database.blobs.stored() if sha not in known and age(p) > grace_s]
    stray += database.blobs.leftovers(grace_s)
    freed = sum(p.stat().st_size for p in stray)
    damaged = []
    for sha256 in sorted(known):
        try:
            database.artifact_path(sha256)
        except ArtifactError as e:
            damaged.append(str(e))
    counts = _clear(database, schedules, dry_run)
    if not dry_run:
        for path in stray:
            path.unlink(missing_ok=True)
    return GcReport(tuple(p.name for p in stray), freed, tuple(damaged), **counts)


def _clear(database: Database, schedules: Collection[str] | None, dry_run: bool) -> dict[str, int]:
    if database.readonly:
        return {}
    with database.writing() as session:
        counts = {"claims": claims.drop_dead(session)}
        if schedules is not None:
            counts |= _clear_older(session, schedules)
        if dry_run:
            session.rollback()
    return counts


def _clear_older(session: Session, schedules: Collection[str]) -> dict[str, int]:
    older = sa.select(TuningKeyRow.id).where(TuningKeyRow.schedule_version.not_in(schedules))
    tried = sa.select(TrialRow.id).where(TrialRow.key_id.in_(older))
    session.execute(sa.delete(ClaimRow).where(ClaimRow.key_id.in_(older)))
    # a stranger's winner may name a trial of another key
    gone = sa.or_(WinnerRow.key_id.in_(older), WinnerRow.trial_id.in_(tried))
    session.execute(sa.delete(WinnerRow).where(gone))
    trials = session.execute(sa.delete(TrialRow).where(TrialRow.key_id.in_(older)))
    session.execute(sa.delete(TuningKeyRow).where(TuningKeyRow.id.in_(older)))
    session.execute(sa.delete(CostModelRow).where(CostModelRow.schedule_version.not_in(schedules)))
    used = [
        sa.exists().where(column == WorkloadRow.hash)
        for column in (TuningKeyRow.workload_hash, TrialRow.variant_hash)
    ]
    unused = sa.select(WorkloadRow.hash).where(*(~u for u in used))
    session.execute(sa.delete(TaskRow).where(TaskRow.workload_hash.in_(unused)))
    kernels = session.execute(sa.delete(WorkloadRow).where(WorkloadRow.hash.in_(unused)))
    return {
        "trials": int(trials.rowcount),  # type: ignore[attr-defined]
        "kernels": int(kernels.rowcount),  # type: ignore[attr-defined]
    }
