"""Why a tuning record is not used: which part of the key differs from what is stored, in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lepton_tvm.db.records import TrialKey
from lepton_tvm.db.tables import TuningKeyRow, WinnerRow, WorkloadRow
from lepton_tvm.db.tuning_keys import PARTS, chunks, key_id, key_of
from lepton_tvm.db.views.find_record import kernels_of
from lepton_tvm.db.views.overview import counts_by_key, machines

if TYPE_CHECKING:
    from lepton_tvm.db.database import Database

__all__ = ["Explanation", "explain"]

_MEANING = {
    "target": "a schedule is only used for the target, cores and threads it was tried with",
    "hardware": "a time on one machine says nothing about another; tune on that one too",
    "tvm_version": "another TVM makes other code of the same schedule; tune again",
    "schedule_version": "the schedules' code has changed since; tune again",
}


@dataclass(frozen=True)
class Explanation:
    """What is stored for a kernel, seen from the key that was asked for.

    `used` says whether compiling uses a record. `differs` holds, for the nearest key that has
    records, each part that differs: its name, what is stored, what was asked, what that means, and
    all of it as a sentence.
    """

    workload_hash: str
    name: str
    used: bool
    trials: int
    differs: tuple[dict[str, str], ...]
    text: str

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return {**vars(self), "differs": list(self.differs)}


def explain(
    database: Database, key: str, key_for: Callable[[str, str], TrialKey]
) -> list[Explanation]:
    """For each kernel of the model or kernel that `key` names: is there a record?

    `key_for` gives the key that is asked for, from a kernel's hash and its name. Raises InputError
    where `key` names nothing or too much.
    """
    with database.reading() as session:
        hashes = kernels_of(session, key, database.url)
        counts = counts_by_key(session)
        known = machines(session)
        won = set(session.scalars(sa.select(WinnerRow.key_id).distinct()))
        names: dict[str, str] = {}
        stored: dict[str, dict[str, TrialKey]] = {workload: {} for workload in hashes}
        for some in chunks(hashes):
            named = sa.select(WorkloadRow.hash, WorkloadRow.name).where(WorkloadRow.hash.in_(some))
            names.update((workload, name) for workload, name in session.execute(named))
            own = sa.select(TuningKeyRow).where(TuningKeyRow.workload_hash.in_(some))
            for row in session.scalars(own):
                if row.id in won or counts.get(row.id):
                    stored[row.workload_hash][row.id] = key_of(row)
    found = [
        _explain(key_for(h, names.get(h, "")), names.get(h, ""), stored[h], counts, won, known)
        for h in hashes
    ]
    return sorted(found, key=lambda e: (e.used, e.name))


def _explain(
    asked: TrialKey,
    name: str,
    stored: dict[str, TrialKey],
    counts: dict[str, dict[str, int]],
    won: set[str],
    known: dict[str, str],
) -> Explanation:
    own = key_id(asked)
    states = counts.get(own, {})
    trials = sum(states.values())

    def answer(used: bool, text: str, differs: tuple[dict[str, str], ...] = ()) -> Explanation:
        return Explanation(asked.workload_hash, name, used, trials, differs, text)

    if own in won:
        return answer(True, "a winner is stored for exactly this key")
    if trials:
        failed = trials - states.get("ok", 0)
        return answer(
            False,
            f"{trials} trials ({failed} failed) are stored for exactly this key but no winner: the "
            "search was not finished; run the same tune command again",
        )
    if not stored:
        return answer(False, "this kernel was never tuned; run lepton-tvm tune")
    # where something won counts before where something was only tried
    nearest = min(stored, key=lambda i: (i not in won, len(_parts(asked, stored[i])), i))
    parts = _parts(asked, stored[nearest])
    differs = tuple(_difference(part, asked, stored[nearest], known) for part in parts)
    words = "; ".join(d["text"] for d in differs)
    return answer(False, f"records differ in {words}", differs)


def _parts(asked: TrialKey, found: TrialKey) -> list[str]:
    return [part for part in PARTS if getattr(asked, part) != getattr(found, part)]


def _difference(
    part: str, asked: TrialKey, found: TrialKey, known: dict[str, str]
) -> dict[str, str]:
    def named(value: str) -> str:
        cpu = known.get(value) if part == "hardware" else None
        return f"{value} ({cpu})" if cpu else value

    stored, wanted, meaning = getattr(found, part), getattr(asked, part), _MEANING[part]
    label = part.replace("_", " ").replace("tvm", "TVM")
    text = f"{label}: stored {named(stored)}, asked {named(wanted)} ({meaning})"
    return {"part": part, "stored": stored, "asked": wanted, "meaning": meaning, "text": text}
