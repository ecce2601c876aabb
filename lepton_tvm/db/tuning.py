"""The tuning log: which schedules were tried for which kernel, where, and how fast they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lepton_tvm.db.records import Trial, TrialKey, now
from lepton_tvm.db.tables import TrialRow, WorkloadRow

if TYPE_CHECKING:
    from lepton_tvm.db.database import Database

__all__ = ["TuningLog"]

_PARTS = tuple(f.name for f in dataclasses.fields(TrialKey))


class TuningLog:
    """Workloads and trials, reached as `database.tuning`.

    A trial is valid for its whole key: workload, target, hardware, TVM version, schedule version.
    A look-up returns records of exactly that key; `explain_miss` says which part differed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_workload(self, workload_hash: str, name: str, ir: str) -> None:
        """Store the IR text of a kernel under its structural hash."""
        row = WorkloadRow(hash=workload_hash, name=name, ir=ir, created_at=now())
        with self._database.writing() as session:
            if session.get(WorkloadRow, workload_hash) is None:
                session.add(row)

    def add_trials(self, trials: Sequence[Trial]) -> None:
        """Store finished trials, failed ones too, all or none. Their workloads must be stored."""
        with self._database.writing() as session:
            for trial in trials:
                if session.get(TrialRow, trial.id) is None:
                    session.add(_row(trial))

    def trials(self, key: TrialKey, *, limit: int | None = None) -> list[Trial]:
        """Trials of exactly `key`: working ones, fastest first, then failed ones."""
        wanted = sa.select(TrialRow).where(*_matches(key))
        wanted = wanted.order_by(
            TrialRow.median_s.is_(None), TrialRow.median_s, TrialRow.created_at
        )
        with self._database.reading() as session:
            return [_trial(row) for row in session.scalars(wanted.limit(limit))]

    def best(self, key: TrialKey) -> Trial | None:
        """The fastest working trial of exactly `key`, or None."""
        found = [t for t in self.trials(key, limit=1) if t.state == "ok"]
        return found[0] if found else None

    def explain_miss(self, key: TrialKey) -> str:
        """Why `best(key)` found nothing: by which parts of the key the nearest record differs."""
        keys = sa.select(*(getattr(TrialRow, p) for p in _PARTS)).where(
            TrialRow.workload_hash == key.workload_hash, TrialRow.state == "ok"
        )
        with self._database.reading() as session:
            stored = [TrialKey(*row) for row in session.execute(keys.distinct())]
        if not stored:
            return "this kernel was never tuned successfully"
        if key in stored:
            return "there is a record"
        nearest = min(stored, key=lambda k: len(_differences(key, k)))
        return "tuned only with " + ", ".join(_differences(key, nearest))

    def count(self) -> dict[str, int]:
        """How many workloads and trials are stored."""
        with self._database.reading() as session:
            return {
                "workloads": session.scalar(sa.select(sa.func.count(WorkloadRow.hash))) or 0,
                "trials": session.scalar(sa.select(sa.func.count(TrialRow.id))) or 0,
            }


def _matches(key: TrialKey) -> list[Any]:
    return [getattr(TrialRow, part) == getattr(key, part) for part in _PARTS]


def _differences(asked: TrialKey, found: TrialKey) -> list[str]:
    return [
        f"{part} {getattr(found, part)!r} (asked {getattr(asked, part)!r})"
        for part in _PARTS
        if getattr(found, part) != getattr(asked, part)
    ]


def _row(trial: Trial) -> TrialRow:
    fields = {f.name: getattr(trial, f.name) for f in dataclasses.fields(trial) if f.name != "key"}
    return TrialRow(**dataclasses.asdict(trial.key), **fields)


def _trial(row: TrialRow) -> Trial:
    names = [f.name for f in dataclasses.fields(Trial) if f.name != "key"]
    key = TrialKey(*(getattr(row, part) for part in _PARTS))
    return Trial(key=key, **{name: getattr(row, name) for name in names})
