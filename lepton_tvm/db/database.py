"""The database as the rest of the package sees it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from lepton_tvm.artifact.container import verify
from lepton_tvm.db import measurement_records as results
from lepton_tvm.db import schema
from lepton_tvm.db.artifact_records import ensure_artifact, find_artifacts, find_models, with_prefix
from lepton_tvm.db.blobs import Blobs
from lepton_tvm.db.driver_errors import write_rights
from lepton_tvm.db.engine import BUSY_SECONDS, make_engine, translated, writer_of
from lepton_tvm.db.jobs import JobHandle, Jobs
from lepton_tvm.db.location import Location, check_there, parse_url
from lepton_tvm.db.records import Artifact, Evaluation, Job, Measurement, ModelRecord
from lepton_tvm.db.row_records import ensure_model
from lepton_tvm.db.tuning_log import TuningLog
from lepton_tvm.errors import ArtifactError, DatabaseError

__all__ = ["Database", "open_database"]

_ELSEWHERE = (
    "look on the machine that compiled it, and set LEPTON_TVM_ARTIFACTS to a folder that all share"
)


def open_database(
    url: str | PathLike[str] | Database | None = None,
    *,
    busy_seconds: float = BUSY_SECONDS,
    create: bool = True,
) -> Database:
    """Open a database, upgrading it where needed; without `create` it must be there already.

    `url` as in SQLAlchemy (`sqlite:///lepton.db`, `postgresql+psycopg://...`) or a file path;
    default: the environment's LEPTON_TVM_DB, else `sqlite:///lepton.db` in the working folder. An
    open `Database` is passed through. Raises DatabaseError, for what cannot be used at all
    DatabaseInputError.
    """
    if isinstance(url, Database):
        return url
    return Database(parse_url(url), busy_seconds=busy_seconds, create=create)


class Database:
    """Models, artifacts, measurements, evaluations, jobs and tuning trials.

    The contract, which every backend keeps:

    - What was stored when a call returned stays stored, also when the process is killed in the
      next moment. A call that raised stored nothing.
    - Any number of processes may read and write at the same time. One writes at a time; a writer
      waits its turn (30 s) and then fails with a DatabaseError that says so.
    - Records are added and read, never edited. The one exception is a job, whose state may change
      until it has ended. A job whose process died is found `interrupted` when the database is
      next opened.
    - Adding what is already there (an artifact with the same bytes, a model with the same source
      and shapes, a record with the same id) changes nothing and is no error.
    - A look-up answers for the target it was asked for and never with another target's record.
    - Artifacts are files named by their sha256 in a folder beside the database (PostgreSQL: in
      LEPTON_TVM_ARTIFACTS, else in this user's data folder). The hash is checked whenever a path is
      handed out, since loading an artifact runs code. Nothing is unpickled.
    - Opening upgrades an older schema in one transaction, refuses a newer one, and changes nothing
      where it raises. A read-only file (or a server's
      user without the right to insert) can read; writing raises one DatabaseError.
    - All errors are DatabaseError (or ArtifactError for a missing or damaged artifact file).

    Use it as a context manager or call `close`. Not for use in a child after `os.fork`.
    """

    def __init__(
        self, location: Location, *, busy_seconds: float = BUSY_SECONDS, create: bool = True
    ) -> None:
        check_there(location, create=create)
        self.location = location
        self.blobs = Blobs(location.artifacts, "" if location.file else _ELSEWHERE)
        self._engine = make_engine(location, busy_seconds=busy_seconds)
        self._writer = writer_of(self._engine)
        try:
            schema.prepare(self._engine, location, create=create)
            if location.file is None and not self._may_write():
                self.location = dataclasses.replace(location, readonly=True)
            self._jobs = Jobs(self)
            if not self.readonly:
                self._jobs.settle()
        except BaseException:
            self._engine.dispose()
            raise
        self.tuning = TuningLog(self)

    @property
    def url(self) -> str:
        """The URL, without a password."""
        return str(self.location)

    @property
    def readonly(self) -> bool:
        """Whether nothing can be stored."""
        return self.location.readonly

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    def _may_write(self) -> bool:
        with translated(self.location):
            return schema.can_write(self._engine)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Database({self.url!r}{', read-only' if self.readonly else ''})"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that sees one state of the database."""
        with translated(self.location), Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that holds the write lock. Raises DatabaseError on a read-only database."""
        self.check_writable()
        with translated(self.location), Session(self._writer) as session, session.begin():
            yield session

    def check_writable(self) -> None:
        """Raise the DatabaseError that any write would raise, before work is done in vain."""
        if not self.readonly:
            return
        hint = f"; make it writable with: chmod u+w {self.location.file}"
        if self.location.file is None:
            hint = f"; its owner gives the rights: {write_rights(self.location.url.username)}"
        raise DatabaseError(f"database {self.url} is read-only, nothing can be stored{hint}")

    # models

    def add_model(
        self,
        name: str,
        source_sha256: str,
        inputs: Sequence[Mapping[str, Any]],
        outputs: Sequence[Mapping[str, Any]],
    ) -> ModelRecord:
        """Store a model (inputs and outputs as dicts of name, shape, dtype) and return it."""
        with self.writing() as session:
            return ensure_model(session, name, source_sha256, inputs, outputs)

    def models(self, query: str | None = None) -> list[ModelRecord]:
        """All models, or those whose name is `query` or whose id or source hash begin with it."""
        with self.reading() as session:
            return find_models(session, query)

    # artifacts

    def add_artifact(self, path: str | Path, *, variant: str | None = None) -> Artifact:
        """Check an artifact file, copy it into the artifacts folder, and record it and its model.

        `variant` names it in comparisons; default: the manifest's. Raises ArtifactError for a
        damaged or foreign file, DatabaseError when it cannot be stored.
        """
        self.check_writable()
        manifest, sha256 = verify(path)
        data = Path(path).read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArtifactError(f"artifact {path} changed while it was read; store it again")
        self.blobs.put(data, sha256)
        with self.writing() as session:
            return ensure_artifact(session, manifest, sha256, len(data), variant)

    def artifacts(
        self,
        *,
        model_id: str | None = None,
        source_sha256: str | None = None,
        target: str | None = None,
        variant: str | None = None,
    ) -> list[Artifact]:
        """Recorded artifacts, oldest first, narrowed by what is given."""
        parts = {"model_id": model_id, "target": target, "variant": variant}
        with self.reading() as session:
            return find_artifacts(session, source_sha256, parts)

    def artifact(self, sha256: str) -> Artifact:
        """The one artifact whose hash begins with `sha256`. Raises ArtifactError."""
        with self.reading() as session:
            found = with_prefix(session, sha256)
        if len(found) == 1 and sha256:
            return found[0]
        problem = "several artifacts have" if found else "no artifact has"
        raise ArtifactError(f"{problem} a sha256 that begins with {sha256!r} in {self.url}")

    def artifact_path(self, artifact: Artifact | str) -> Path:
        """Where an artifact's file lies, after its sha256 was checked. Raises ArtifactError."""
        sha256 = artifact if isinstance(artifact, str) else artifact.sha256
        return self.blobs.get(sha256)

    # measurements and evaluations

    def add_results(
        self, measurements: Sequence[Measurement], evaluations: Sequence[Evaluation] = ()
    ) -> None:
        """Store the finished records of one run, all or none."""
        with self.writing() as session:
            results.add_results(session, measurements, evaluations)

    def measurements(
        self, artifact_sha256: str | None = None, *, run_id: str | None = None
    ) -> list[Measurement]:
        """Measurements, oldest first, of one artifact or one run or all."""
        with self.reading() as session:
            return results.find_measurements(session, artifact_sha256, run_id)

    def evaluations(
        self, artifact_sha256: str | None = None, *, run_id: str | None = None
    ) -> list[Evaluation]:
        """Evaluations, oldest first, of one artifact or one run or all."""
        with self.reading() as session:
            return results.find_evaluations(session, artifact_sha256, run_id)

    # jobs

    def job(
        self,
        kind: str,
        options: Mapping[str, Any] | None = None,
        seeds: Mapping[str, int] | None = None,
    ) -> AbstractContextManager[JobHandle]:
        """Record a piece of work while it runs: done at the end, failed or interrupted otherwise.

        `options` are JSON values; `seeds` names the seed of every random choice.
        """
        return self._jobs.running(kind, dict(options or {}), dict(seeds or {}))

    def jobs(self, *, kind: str | None = None, state: str | None = None) -> list[Job]:
        """Jobs with their seeds, oldest first."""
        return self._jobs.find(kind, state)
