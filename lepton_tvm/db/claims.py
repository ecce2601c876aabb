"""Claims: which process is trying which candidate, so that no two try the same one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from lepton_tvm.db.job_owner import host_id, is_gone
from lepton_tvm.db.records import TrialKey
from lepton_tvm.db.tables import ClaimRow, TrialRow
from lepton_tvm.db.tuning_keys import chunks, key_id

__all__ = ["count_claims", "count_trials", "drop", "drop_dead", "grant", "renew"]

_Candidate = tuple[TrialKey, str]


def grant(
    session: Session, wanted: Sequence[_Candidate], room: int | None, job_id: str, lease_s: float
) -> list[_Candidate]:
    """Claim those of `wanted` that are free, in order, at most `room`."""
    ids = {key: key_id(key) for key, _ in wanted}
    taken = _taken(session, wanted, ids)
    expires = clock(session) + lease_s
    granted: list[_Candidate] = []
    for key, candidate in wanted:
        if room is not None and len(granted) >= room:
            break
        if (ids[key], candidate) in taken:
            continue
        taken.add((ids[key], candidate))
        granted.append((key, candidate))
    if granted:
        owner = {"job_id": job_id, "host": host_id(), "pid": os.getpid(), "expires": expires}
        rows = [{"key_id": ids[k], "candidate": c, **owner} for k, c in granted]
        session.execute(sa.insert(ClaimRow), rows)
    return granted


def drop_dead(session: Session) -> int:
    """Drop claims whose lease is over or whose process, on this host, is gone."""
    ended = sa.delete(ClaimRow).where(ClaimRow.expires < clock(session))
    dropped = int(session.execute(ended).rowcount)  # type: ignore[attr-defined]
    owners = session.execute(sa.select(ClaimRow.host, ClaimRow.pid).distinct()).all()
    for host, pid in owners:
        if is_gone(host, pid, since_boot=True):
            gone = sa.delete(ClaimRow).where(ClaimRow.host == host, ClaimRow.pid == pid)
            dropped += int(session.execute(gone).rowcount)  # type: ignore[attr-defined]
    return dropped


def renew(session: Session, job_id: str, lease_s: float) -> int:
    """Let the claims of a job run for `lease_s` seconds from now."""
    expires = clock(session) + lease_s
    longer = sa.update(ClaimRow).where(ClaimRow.job_id == job_id).values(expires=expires)
    return int(session.execute(longer).rowcount)  # type: ignore[attr-defined]


def drop(session: Session, job_id: str) -> int:
    """Drop the claims of a job."""
    own = sa.delete(ClaimRow).where(ClaimRow.job_id == job_id)
    return int(session.execute(own).rowcount)  # type: ignore[attr-defined]


def count_trials(session: Session, ids: Sequence[str]) -> int:
    """How many trials are stored under those key ids."""
    return _count(session, TrialRow.key_id, ids)


def count_claims(session: Session, ids: Sequence[str]) -> int:
    """How many claims there are under those key ids."""
    return _count(session, ClaimRow.key_id, ids)


def clock(session: Session) -> float:
    """Seconds since 1970: the server's clock where there is a server, so that hosts agree."""
    if session.get_bind().dialect.name != "postgresql":
        return time.time()
    return float(
        session.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
    )


def _count(session: Session, column: sa.orm.InstrumentedAttribute[str], ids: Sequence[str]) -> int:
    counts = (
        session.execute(sa.select(sa.func.count()).where(column.in_(some))).scalar_one()
        for some in chunks(ids)
    )
    return sum(counts)


def _taken(
    session: Session, wanted: Iterable[_Candidate], ids: dict[TrialKey, str]
) -> set[tuple[str, str]]:
    """Those of `wanted` that are finished or claimed."""
    by_key: dict[str, list[str]] = {}
    for key, candidate in wanted:
        by_key.setdefault(ids[key], []).append(candidate)
    taken: set[tuple[str, str]] = set()
    for name, candidates in by_key.items():
        for some in chunks(candidates):
            for row in (TrialRow, ClaimRow):
                found = sa.select(row.candidate).where(row.key_id == name, row.candidate.in_(some))
                taken.update((name, candidate) for candidate in session.scalars(found))
    return taken
