"""From a URL to a SQLAlchemy engine, and from driver errors to messages for people."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from platformdirs import user_data_path
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from lepton_tvm.db.reasons import postgres_reason, sqlite_reason
from lepton_tvm.errors import DatabaseError, LeptonError

__all__ = ["DEFAULT_URL", "Place", "make_engine", "parse_url", "translated", "writer_of"]

DEFAULT_URL = "sqlite:///lepton.db"
BUSY_SECONDS = 30.0
_WRITE_LOCK = int.from_bytes(b"lepton", "big")
_MAX_VALUE = 256 << 20
_HEADER = b"SQLite format 3\x00"


@dataclass(frozen=True)
class Place:
    """Where a database is: its URL, the file (SQLite only), and where its artifacts lie."""

    url: URL
    file: Path | None
    artifacts: Path
    readonly: bool

    def __str__(self) -> str:
        hidden = {k: "***" for k in self.url.query if "pass" in k.lower()}
        return self.url.update_query_dict(hidden).render_as_string(hide_password=True)


def parse_url(url: str | None) -> Place:
    """Check a database URL (default: LEPTON_TVM_DB, else `sqlite:///lepton.db`).

    A plain path of a file is taken for SQLite. Raises DatabaseError.
    """
    text = url or os.environ.get("LEPTON_TVM_DB") or DEFAULT_URL
    if "://" not in text:
        text = f"sqlite:///{text}"
    try:
        parsed = make_url(text)
    except (ArgumentError, ValueError):
        shown = re.sub(r"://[^/@]*@", "://***@", text)
        raise DatabaseError(
            f"{shown!r} is not a database URL; give sqlite:///FILE or "
            "postgresql+psycopg://USER@HOST/NAME"
        ) from None
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_place(parsed)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername != "postgresql+psycopg":
        raise DatabaseError(
            f"database {parsed.render_as_string()}: only sqlite:///FILE and "
            "postgresql+psycopg://... are supported"
        )
    if not parsed.database:
        raise DatabaseError(
            f"database {parsed.render_as_string()}: the URL names no database; "
            "add its name: postgresql+psycopg://USER@HOST/NAME"
        )
    return Place(parsed, None, _shared_artifacts(parsed), readonly=False)


def make_engine(place: Place, *, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """An engine for `place`; opens nothing yet. Raises DatabaseError for a missing driver."""
    if place.file is not None:
        return _sqlite_engine(place, place.file, busy_seconds)
    try:
        return _postgres_engine(place, busy_seconds)
    except (ImportError, NoSuchModuleError) as e:
        raise DatabaseError(
            f"database {place}: its driver is not installed ({e}); "
            "pip install 'lepton_tvm[postgres]'"
        ) from e


def writer_of(engine: Engine) -> Engine:
    """The same engine for transactions that write: only one of them is open at any time."""
    options: dict[str, Any] = {"lepton_write": True}
    if engine.dialect.name == "postgresql":
        # With a snapshot from before the lock was granted it would miss the last writer's rows.
        options["isolation_level"] = "READ COMMITTED"
    return engine.execution_options(**options)


@contextmanager
def translated(place: Place) -> Iterator[None]:
    """Turn SQLAlchemy's and the driver's errors into one clear DatabaseError."""
    try:
        yield
    except DBAPIError as e:
        raise DatabaseError(f"database {place}: {_reason(e.orig or e, place)}") from e
    except (SQLAlchemyError, sqlite3.Error) as e:
        raise DatabaseError(f"database {place}: {_reason(e, place)}") from e
    except LeptonError:
        raise
    except (ValueError, TypeError, RecursionError) as e:
        # a column holds what it cannot: JSON or compressed text that is none, another type
        raise DatabaseError(
            f"database {place} holds a record that cannot be read: {str(e)[:200]}; "
            "restore it from a copy or an export"
        ) from e


def _reason(error: BaseException, place: Place) -> str:
    if place.file is not None:
        return sqlite_reason(str(error), place.file)
    return postgres_reason(str(error), getattr(error, "sqlstate", None), place.url.username)


def _shared_artifacts(url: URL) -> Path:
    """The folder of a server's artifacts: LEPTON_TVM_ARTIFACTS, else one of this user's own."""
    folder = os.environ.get("LEPTON_TVM_ARTIFACTS")
    if folder:
        return Path(folder)
    host = url.host or url.query.get("host") or "local"
    name = f"{url.database}@{host}-{url.port or 5432}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9.@-]+", "_", name)[:80]
    return Path(user_data_path("lepton_tvm")) / "artifacts" / f"{readable}-{digest}"


def _postgres_engine(place: Place, busy_seconds: float) -> Engine:
    # a host that went away is noticed; what the URL says goes before
    patience = {
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "application_name": "lepton-tvm",
    }
    arguments = {k: v for k, v in patience.items() if k not in place.url.query}
    engine = sa.create_engine(
        place.url,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ",
        connect_args=arguments,
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("lepton_write", False):
            return
        # One writer at a time, as in SQLite: counts and limits are exact, nothing deadlocks, no
        # transaction has to be run again. A writer whose host fell silent loses its turn.
        connection.exec_driver_sql(
            f"SELECT set_config('lock_timeout', '{max(1, int(busy_seconds * 1e3))}', true), "
            "set_config('idle_in_transaction_session_timeout', '60000', true)"
        )
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})")

    return engine


def _sqlite_place(url: URL) -> Place:
    if not url.database or url.database == ":memory:":
        raise DatabaseError("an in-memory database keeps nothing: give sqlite:///FILE")
    file = Path(url.database).expanduser()
    absolute = Path(os.path.abspath(file))
    place = Place(
        url, absolute, absolute.with_name(f"{absolute.name}.artifacts"), _is_readonly(absolute)
    )
    folder = absolute.parent
    if absolute.is_dir():
        raise DatabaseError(f"database {place}: {absolute} is a folder; give a file")
    if not folder.is_dir():
        raise DatabaseError(
            f"database {place}: folder {folder} does not exist; create it with: mkdir -p {folder}"
        )
    if not absolute.exists() and not os.access(folder, os.W_OK):
        raise DatabaseError(f"database {place}: folder {folder} is read-only for this user")
    _check_header(absolute, place)
    return place


def _is_readonly(file: Path) -> bool:
    """Whether nobody has write permission, or this user has none (root counts as somebody)."""
    if not file.exists():
        return False
    if not file.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        return True
    return not os.access(file, os.W_OK) or not os.access(file.parent, os.W_OK)


def _check_header(file: Path, place: Place) -> None:
    if not file.exists():
        return
    try:
        with file.open("rb") as stream:
            header = stream.read(len(_HEADER))
    except OSError as e:
        raise DatabaseError(f"database {place}: cannot read {file}: {e.strerror or e}") from e
    if header and header != _HEADER:
        raise DatabaseError(f"database {place}: {file} is not a SQLite database; give another file")


def _sqlite_engine(place: Place, file: Path, busy_seconds: float) -> Engine:
    uri = f"file:{quote(str(file))}"
    if place.readonly:
        # Without a write-ahead log beside it the file cannot be changing, and SQLite need not
        # make lock files in a folder that may be read-only too.
        has_log = file.with_name(f"{file.name}-wal").exists()
        uri += "?mode=ro" if has_log else "?mode=ro&immutable=1"

    def connect() -> sqlite3.Connection:
        # isolation_level None: SQLAlchemy begins transactions (below), not the driver, so that
        # schema changes are part of them.
        return sqlite3.connect(
            uri, uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False
        )

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.QueuePool)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # a stranger's file: its schema may call nothing, its values and pages are bounded
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        if hasattr(connection, "setlimit"):  # Python 3.11
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE)
        connection.execute("PRAGMA foreign_keys=ON")
        if not place.readonly:
            connection.execute("PRAGMA journal_mode=WAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Taking the write lock at once makes a second writer wait instead of fail halfway.
        write = connection.get_execution_options().get("lepton_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine
