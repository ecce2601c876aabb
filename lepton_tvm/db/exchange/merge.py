"""Adding the records of another database, which may be a stranger's."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lepton_tvm.db.database import Database
from lepton_tvm.db.engine import readonly_uri, translated
from lepton_tvm.db.exchange.insert_rows import insert_rows
from lepton_tvm.db.exchange.row_checks import TABLES, check_row
from lepton_tvm.db.location import Location, check_there, parse_url
from lepton_tvm.db.row_records import columns
from lepton_tvm.errors import ArtifactError, DatabaseError, DatabaseInputError, InputError

__all__ = ["MergeReport", "merge", "reading_other"]


@dataclass(frozen=True)
class MergeReport:
    """What came over: `rows` added, `known` here already; `conflicts` are told, ours stayed."""

    rows: int
    known: int
    artifacts: int
    conflicts: tuple[str, ...]
    skipped: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        lists = {"conflicts": list(self.conflicts), "skipped": list(self.skipped)}
        return {**vars(self), **lists}


def merge(database: Database, other: str, *, artifacts: bool = False) -> MergeReport:
    """Add the records of `other` (a URL or a SQLite file) that are not here; nothing changes here.

    The other database is only read, as a stranger's: each record is checked, and one that this
    program would not have written refuses the whole. Files of artifacts are code; they come over
    only with `artifacts`, each after its hash was checked. Claims and cost models stay there.

    Raises InputError for records that cannot be, DatabaseError for a database that cannot be read.
    """
    database.check_writable()
    skipped: list[str] = []
    copied = 0
    with reading_other(other, database) as source:
        with database.writing() as session:
            inserted = insert_rows(session, _rows(source))
        if artifacts:
            for artifact in source.artifacts():
                try:
                    data = source.artifact_path(artifact).read_bytes()
                    database.blobs.put(data, artifact.sha256)
                    copied += 1
                except (ArtifactError, OSError) as e:
                    skipped.append(str(e))
        else:
            count = len(source.artifacts())
            skipped += [f"the files of {count} artifacts (they are code)"] if count else []
    return MergeReport(
        inserted.added, inserted.known, copied, tuple(inserted.told()), tuple(skipped)
    )


@contextlib.contextmanager
def reading_other(other: str, database: Database | None = None) -> Iterator[Database]:
    """The other database, opened so that it cannot be changed: of a file, a copy.

    Raises InputError where it is `database` itself, DatabaseInputError where it cannot be read.
    """
    location = parse_url(other)
    check_there(location, create=False)
    if database is not None and _same(location, database.location):
        raise InputError(f"{location} is the database itself")
    if location.file is None:
        with Database(dataclasses.replace(location, readonly=True), create=False) as source:
            yield source
        return
    with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
        copy = Path(folder) / "other.db"
        with translated(location, DatabaseInputError):
            _copy(location.file, copy)
        with _opened(copy, location) as source:
            source.blobs.folder = location.artifacts
            yield source


def _same(one: Location, other: Location) -> bool:
    if one.file is None or other.file is None:
        return one.url == other.url
    return one.file.samefile(other.file)


def _opened(copy: Path, location: Location) -> Database:
    """The copy, which calls itself by the name of what it is a copy of."""
    own = parse_url(str(copy))
    try:
        source = Database(own, create=False)
    except DatabaseError as e:
        raise type(e)(str(e).replace(str(own), str(location))) from e
    source.location = dataclasses.replace(location, readonly=True)
    return source


def _copy(file: Path, to: Path) -> None:
    """What is in a SQLite file and its log now, without changing either."""
    with (
        contextlib.closing(sqlite3.connect(readonly_uri(file), uri=True)) as source,
        contextlib.closing(sqlite3.connect(to)) as copy,
    ):
        source.execute("PRAGMA trusted_schema=OFF")
        source.backup(copy)


def _rows(source: Database) -> Iterator[tuple[str, dict[str, Any]]]:
    with source.reading() as session:
        for name, table in TABLES.items():
            keys = sa.inspect(table).primary_key
            wanted = sa.select(table).order_by(*keys).execution_options(yield_per=500)
            for row in session.scalars(wanted):
                values = columns(row)
                session.expunge(row)
                check_row(name, values, f"database {source.url}")
                if name == "jobs" and values["state"] == "running":
                    values["state"] = "interrupted"
                    values["error"] = "it was merged while it ran elsewhere"
                yield name, values
