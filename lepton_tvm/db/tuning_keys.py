"""Keys of tuning records: five named parts, and a short id that any two databases agree on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from lepton_tvm.db.records import TrialKey
from lepton_tvm.db.tables import TuningKeyRow, WorkloadRow
from lepton_tvm.errors import DatabaseError

__all__ = ["PARTS", "chunks", "ensure_keys", "key_id", "key_of"]

PARTS = tuple(f.name for f in dataclasses.fields(TrialKey))
_CHUNK = 500
_Item = TypeVar("_Item")


def key_id(key: TrialKey) -> str:
    """The id under which records of exactly this key are stored."""
    parts = [getattr(key, part) for part in PARTS]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def key_of(row: Any) -> TrialKey:
    """The key of a row that has its parts as attributes."""
    return TrialKey(*(getattr(row, part) for part in PARTS))


def ensure_keys(session: Session, keys: Iterable[TrialKey]) -> None:
    """Store the keys that are not there yet. Raises DatabaseError where a workload is not."""
    wanted = {key_id(key): key for key in keys}
    for ids in chunks(list(wanted)):
        known = sa.select(TuningKeyRow.id).where(TuningKeyRow.id.in_(ids))
        for found in session.scalars(known):
            del wanted[found]
    for name, key in wanted.items():
        if session.get(WorkloadRow, key.workload_hash) is None:
            raise DatabaseError(
                f"workload {key.workload_hash[:12]} is not in the database; "
                "store it with add_workloads first"
            )
        session.add(TuningKeyRow(id=name, **dataclasses.asdict(key)))
    session.flush()


def chunks(items: Sequence[_Item], size: int = _CHUNK) -> Iterator[Sequence[_Item]]:
    """Pieces that fit into one statement."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
