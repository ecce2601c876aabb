"""Adding rows of another database: existing rows stay, differences are reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from lepton_tvm.db.exchange.row_checks import TABLES
from lepton_tvm.db.row_records import columns
from lepton_tvm.db.tuning_keys import chunks

__all__ = ["Inserted", "insert_rows"]

# These change, or say only when the same thing was first stored.
_PASSING = {"created_at", "state", "progress", "error", "finished_at"}
_MAX_TOLD = 20


@dataclass
class Inserted:
    """How many rows were added, how many were here already, and which differ from those here."""

    added: int = 0
    known: int = 0
    conflicts: list[str] = field(default_factory=list)
    conflict_count: int = 0
    # ids of trials of candidates that were tried here too, and the ids they have here
    same_trial: dict[str, str] = field(default_factory=dict)

    def told(self) -> list[str]:
        """The first conflicts, and how many more there are."""
        more = self.conflict_count - len(self.conflicts)
        return self.conflicts + ([f"and {more} more conflicts"] if more else [])


def insert_rows(session: Session, rows: Iterable[tuple[str, dict[str, Any]]]) -> Inserted:
    """Add checked rows, (table, values), which must stand in the order of TABLES."""
    result = Inserted()
    for name, group in groupby(rows, key=lambda entry: entry[0]):
        for some in _pieces(row for _, row in group):
            _insert(session, name, some, result)
    return result


def _insert(session: Session, name: str, rows: Sequence[dict[str, Any]], result: Inserted) -> None:
    table = TABLES[name]
    keys = [str(c.key) for c in sa.inspect(table).primary_key]
    here = _here(session, table, keys, rows)
    tried = _tried(session, rows) if name == "trials" else {}
    new: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        values = dict(row)
        identity = tuple(row[k] for k in keys)
        found = here.get(identity) or new.get(identity)
        if name == "winners":
            values["trial_id"] = result.same_trial.get(row["trial_id"], row["trial_id"])
        if found is not None:
            result.known += 1
            _compare(name, identity, values, found, result)
        elif name == "trials" and (row["key_id"], row["candidate"]) in tried:
            result.known += 1
            result.same_trial[row["id"]] = tried[row["key_id"], row["candidate"]]
        else:
            new[identity] = values
            if name == "trials":
                tried[row["key_id"], row["candidate"]] = row["id"]
    session.add_all(table(**values) for values in new.values())
    session.flush()
    session.expunge_all()
    result.added += len(new)


def _here(
    session: Session, table: Any, keys: list[str], rows: Sequence[dict[str, Any]]
) -> dict[tuple[Any, ...], dict[str, Any]]:
    first = getattr(table, keys[0])
    wanted = sa.select(table).where(first.in_(sorted({row[keys[0]] for row in rows})))
    found = [columns(row) for row in session.scalars(wanted)]
    return {tuple(values[k] for k in keys): values for values in found}


def _tried(session: Session, rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], str]:
    trials = TABLES["trials"].__table__.c
    wanted = sa.select(trials.key_id, trials.candidate, trials.id).where(
        trials.key_id.in_(sorted({row["key_id"] for row in rows})),
        trials.candidate.in_(sorted({row["candidate"] for row in rows})),
    )
    return {(key, candidate): name for key, candidate, name in session.execute(wanted)}


def _compare(
    name: str,
    identity: tuple[Any, ...],
    there: dict[str, Any],
    here: dict[str, Any],
    result: Inserted,
) -> None:
    passing = _PASSING if name in ("jobs", "workloads", "models", "artifacts") else {"created_at"}
    differing = [k for k, v in there.items() if k not in passing and v != here.get(k)]
    if not differing:
        return
    result.conflict_count += 1
    if len(result.conflicts) < _MAX_TOLD:
        which = ", ".join(str(part)[:12] for part in identity)
        result.conflicts.append(f"{name} {which} differs in {', '.join(differing)}: ours stays")


def _pieces(rows: Iterable[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    some: list[dict[str, Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == 500:
            yield some
            some = []
    yield from chunks(some)
