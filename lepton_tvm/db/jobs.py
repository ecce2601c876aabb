"""Jobs: what is running, what ended how, and what was cut off."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lepton_tvm.db.job_owner import host_id, is_gone
from lepton_tvm.db.records import Job, new_id, now
from lepton_tvm.db.tables import JobRow, SeedRow

if TYPE_CHECKING:
    from lepton_tvm.db.database import Database

__all__ = ["JobHandle", "Jobs"]


class Jobs:
    """The part of `Database` that keeps jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def running(
        self, kind: str, options: dict[str, Any], seeds: Mapping[str, int]
    ) -> Iterator[JobHandle]:
        """A job for as long as it is entered: done at its end, else failed or interrupted."""
        handle = self.start(kind, options, seeds)
        try:
            yield handle
        except Exception as e:
            self.finish(handle.id, "failed", f"{type(e).__name__}: {e}")
            raise
        except BaseException as e:
            self.finish(handle.id, "interrupted", type(e).__name__)
            raise
        self.finish(handle.id, "done", None)

    def start(self, kind: str, options: dict[str, Any], seeds: Mapping[str, int]) -> JobHandle:
        """Record that this process begins a piece of work."""
        row = JobRow(
            id=new_id(),
            kind=kind,
            options=options,
            state="running",
            progress={},
            error=None,
            host=host_id(),
            pid=os.getpid(),
            started_at=now(),
            finished_at=None,
        )
        handle = JobHandle(row.id, self)
        with self._database.writing() as session:
            session.add(row)
            session.flush()
            session.add_all(SeedRow(job_id=row.id, name=n, value=v) for n, v in seeds.items())
        return handle

    def progress(self, job_id: str, progress: Mapping[str, Any]) -> None:
        """Replace what a running job says about how far it is."""
        self._update(job_id, progress=dict(progress))

    def seed(self, job_id: str, name: str, value: int) -> None:
        """Add the seed of one more random choice."""
        with self._database.writing() as session:
            session.merge(SeedRow(job_id=job_id, name=name, value=value))

    def finish(self, job_id: str, state: str, error: str | None) -> None:
        """End a running job; one that has ended stays as it is."""
        self._update(job_id, state=state, error=error, finished_at=now())

    def settle(self) -> None:
        """Mark running jobs whose process is gone as interrupted."""
        wanted = sa.select(JobRow.id, JobRow.host, JobRow.pid).where(JobRow.state == "running")
        with self._database.reading() as session:
            gone = [row.id for row in session.execute(wanted) if is_gone(row.host, row.pid)]
        for job_id in gone:
            self.finish(job_id, "interrupted", "its process ended without saying how")

    def find(self, kind: str | None, state: str | None) -> list[Job]:
        """Jobs, oldest first."""
        wanted = sa.select(JobRow).order_by(JobRow.started_at)
        if kind is not None:
            wanted = wanted.where(JobRow.kind == kind)
        if state is not None:
            wanted = wanted.where(JobRow.state == state)
        with self._database.reading() as session:
            rows = list(session.scalars(wanted))
            seeds: dict[str, dict[str, int]] = {}
            for seed in session.scalars(sa.select(SeedRow)):
                seeds.setdefault(seed.job_id, {})[seed.name] = seed.value
            return [_job(row, seeds.get(row.id, {})) for row in rows]

    def _update(self, job_id: str, **changes: Any) -> None:
        statement = sa.update(JobRow).where(JobRow.id == job_id, JobRow.state == "running")
        with self._database.writing() as session:
            session.execute(statement.values(**changes))


@dataclass(frozen=True)
class JobHandle:
    """A job that this process is running."""

    id: str
    jobs: Jobs

    def progress(self, **values: Any) -> None:
        """Say how far the work is (JSON values); replaces what was said before."""
        self.jobs.progress(self.id, values)

    def seed(self, name: str, value: int) -> None:
        """Record the seed of a random choice."""
        self.jobs.seed(self.id, name, value)


def _job(row: JobRow, seeds: dict[str, int]) -> Job:
    return Job(
        id=row.id,
        kind=row.kind,
        options=row.options,
        state=row.state,
        progress=row.progress,
        error=row.error,
        host=row.host,
        pid=row.pid,
        started_at=row.started_at,
        finished_at=row.finished_at,
        seeds=seeds,
    )
