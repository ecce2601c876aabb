"""Winners and cost models: the results of tuning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from lepton_tvm.db.records import TrialKey, Winner, now
from lepton_tvm.db.tables import CostModelRow, WinnerRow
from lepton_tvm.db.tuning_keys import chunks, ensure_keys, key_id
from lepton_tvm.db.value_checks import check_candidate

__all__ = ["add_winners", "load_cost_model", "save_cost_model", "winners"]

_FIELDS = ("trial_id", "candidate", "decisions", "ratio", "job_id", "id", "created_at")


def add_winners(session: Session, new: Sequence[Winner]) -> None:
    """Add verdicts; those that are there stay."""
    ensure_keys(session, (w.key for w in new))
    for winner in new:
        check_candidate(winner.candidate)
        if session.get(WinnerRow, winner.id) is None:
            session.add(
                WinnerRow(
                    key_id=key_id(winner.key),
                    ci95_low=winner.ci95[0],
                    ci95_high=winner.ci95[1],
                    **{name: getattr(winner, name) for name in _FIELDS},
                )
            )


def winners(session: Session, keys: Iterable[TrialKey]) -> dict[TrialKey, Winner]:
    """The newest verdict of each key."""
    by_id = {key_id(key): key for key in keys}
    found: dict[TrialKey, Winner] = {}
    for some in chunks(list(by_id)):
        wanted = sa.select(WinnerRow).where(WinnerRow.key_id.in_(some))
        # the newest comes last and stays
        for row in session.scalars(wanted.order_by(WinnerRow.created_at, WinnerRow.id)):
            key = by_id[row.key_id]
            values = {name: getattr(row, name) for name in _FIELDS}
            found[key] = Winner(key=key, ci95=(row.ci95_low, row.ci95_high), **values)
    return found


def save_cost_model(
    session: Session, key: tuple[str, str, str, str], data: bytes, trials: int
) -> None:
    """Put a cost model in the place of the one before it."""
    session.execute(sa.delete(CostModelRow).where(*_same(key)))
    names = dict(zip(_COST_KEY, key, strict=True))
    session.add(CostModelRow(**names, data=data, trials=trials, created_at=now()))


def load_cost_model(session: Session, key: tuple[str, str, str, str]) -> bytes | None:
    """The bytes of the cost model of that key."""
    return session.scalar(sa.select(CostModelRow.data).where(*_same(key)))


_COST_KEY = ("target", "tvm_version", "schedule_version", "kind")


def _same(key: tuple[str, str, str, str]) -> list[sa.ColumnElement[bool]]:
    return [
        getattr(CostModelRow, name) == value for name, value in zip(_COST_KEY, key, strict=True)
    ]
