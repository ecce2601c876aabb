"""Trials as records, inside a transaction that the caller holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from lepton_tvm.db.records import Trial, TrialKey
from lepton_tvm.db.tables import TrialRow, TuningKeyRow
from lepton_tvm.db.tuning_keys import key_id, key_of
from lepton_tvm.db.value_checks import plain_text

__all__ = ["add_trial", "fastest", "find_trials", "neighbours"]


def add_trial(session: Session, trial: Trial) -> bool:
    """Store a trial; False where it or its candidate is there already."""
    name = key_id(trial.key)
    same = sa.select(TrialRow.id).where(
        sa.or_(
            TrialRow.id == trial.id,
            sa.and_(TrialRow.key_id == name, TrialRow.candidate == trial.candidate),
        )
    )
    if session.execute(same.limit(1)).first() is not None:
        return False
    session.add(_row(trial))
    session.flush()
    return True


def find_trials(session: Session, key: TrialKey, limit: int | None) -> list[Trial]:
    """Trials of exactly `key`: working ones, fastest first, then the others."""
    wanted = sa.select(TrialRow).where(TrialRow.key_id == key_id(key))
    wanted = wanted.order_by(
        TrialRow.state != "ok", TrialRow.median_s.is_(None), TrialRow.median_s
    ).order_by(TrialRow.created_at, TrialRow.id)
    return [_trial(row, key) for row in session.scalars(wanted.limit(limit))]


def fastest(session: Session, key: TrialKey) -> Trial | None:
    """The fastest working trial of exactly `key`."""
    wanted = sa.select(TrialRow).where(TrialRow.key_id == key_id(key), TrialRow.state == "ok")
    row = session.scalars(wanted.order_by(TrialRow.median_s).limit(1)).first()
    return None if row is None else _trial(row, key)


def neighbours(session: Session, key: TrialKey, limit: int) -> list[Trial]:
    """The fastest trials of the kernel under other keys of the same instruction set."""
    isa = key.target.partition(" ")[0]
    alike = sa.or_(
        TuningKeyRow.target == isa,
        TuningKeyRow.target.startswith(f"{isa} ", autoescape=True),
    )
    wanted = (
        sa.select(TrialRow, TuningKeyRow)
        .join(TuningKeyRow)
        .where(
            TuningKeyRow.workload_hash == key.workload_hash,
            alike,
            TuningKeyRow.id != key_id(key),
            TrialRow.state == "ok",
        )
        .order_by(TrialRow.median_s, TrialRow.id)
    )
    rows = session.execute(wanted.limit(limit))
    return [_trial(row, key_of(parts)) for row, parts in rows]


def _row(trial: Trial) -> TrialRow:
    fields = {f.name: getattr(trial, f.name) for f in dataclasses.fields(trial) if f.name != "key"}
    fields["error"] = None if trial.error is None else plain_text(trial.error)
    return TrialRow(key_id=key_id(trial.key), **fields)


def _trial(row: Any, key: TrialKey) -> Trial:
    names = [f.name for f in dataclasses.fields(Trial) if f.name != "key"]
    return Trial(key=key, **{name: getattr(row, name) for name in names})
