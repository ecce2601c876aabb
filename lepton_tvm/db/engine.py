"""From a location to a SQLAlchemy engine, and from driver errors to messages for people."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

from lepton_tvm.db.driver_errors import is_damage, postgres_reason, sqlite_reason
from lepton_tvm.db.location import Location
from lepton_tvm.errors import DatabaseError, DatabaseInputError, LeptonError

__all__ = [
    "BUSY_SECONDS",
    "make_engine",
    "readonly_uri",
    "translated",
    "use_log",
    "writer_of",
]

BUSY_SECONDS = 30.0
_WRITE_LOCK = int.from_bytes(b"lepton", "big")
_MAX_VALUE = 256 << 20


def make_engine(location: Location, *, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """An engine; opens nothing yet. Raises DatabaseInputError for a missing driver."""
    if location.file is not None:
        return _sqlite_engine(location, location.file, busy_seconds)
    try:
        return _postgres_engine(location, busy_seconds)
    except (ImportError, NoSuchModuleError) as e:
        raise DatabaseInputError(
            f"database {location}: its driver is not installed ({e}); "
            "pip install 'lepton-tvm[postgres]'"
        ) from e


def writer_of(engine: Engine) -> Engine:
    """The same engine for transactions that write: only one of them is open at any time."""
    options: dict[str, Any] = {"lepton_write": True}
    if engine.dialect.name == "postgresql":
        # With a snapshot from before the lock was granted it would miss the last writer's rows.
        options["isolation_level"] = "READ COMMITTED"
    return engine.execution_options(**options)


def readonly_uri(file: Path) -> str:
    """How SQLite opens a file so that neither it nor its folder changes."""
    # Without a write-ahead log beside it the file cannot be changing, and SQLite need not make
    # lock files, which a folder that is read-only would refuse and another would keep.
    has_log = file.with_name(f"{file.name}-wal").exists()
    return f"file:{quote(str(file))}?mode=ro" + ("" if has_log else "&immutable=1")


def use_log(engine: Engine) -> None:
    """Let a SQLite file have a write-ahead log, which lets readers and a writer work together.

    It stays so in the file, which is why files of others must not be asked for it.
    """
    with contextlib.closing(engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA journal_mode=WAL")


@contextmanager
def translated(location: Location, kind: type[DatabaseError] = DatabaseError) -> Iterator[None]:
    """Turn SQLAlchemy's and the driver's errors into one clear DatabaseError of that kind."""
    try:
        yield
    except DBAPIError as e:
        raise _told(e.orig or e, location, kind) from e
    except (SQLAlchemyError, sqlite3.Error) as e:
        raise _told(e, location, kind) from e
    except LeptonError:
        raise
    except (ValueError, TypeError, RecursionError) as e:
        # a column holds what it cannot: JSON or compressed text that is none, another type
        raise DatabaseInputError(
            f"database {location} holds a record that cannot be read: {str(e)[:200]}; "
            "restore it from a copy or an export"
        ) from e


def _told(error: BaseException, location: Location, kind: type[DatabaseError]) -> DatabaseError:
    if location.file is None:
        state = getattr(error, "sqlstate", None)
        return kind(
            f"database {location}: {postgres_reason(str(error), state, location.url.username)}"
        )
    if is_damage(str(error)):
        kind = DatabaseInputError
    return kind(f"database {location}: {sqlite_reason(str(error), location.file)}")


def _postgres_engine(location: Location, busy_seconds: float) -> Engine:
    # a host that went away is noticed; what the URL says goes before
    patience = {
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "application_name": "lepton-tvm",
    }
    arguments = {k: v for k, v in patience.items() if k not in location.url.query}
    engine = sa.create_engine(
        location.url,
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


def _sqlite_engine(location: Location, file: Path, busy_seconds: float) -> Engine:
    uri = readonly_uri(file) if location.readonly else f"file:{quote(str(file))}"

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

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Taking the write lock at once makes a second writer wait instead of fail halfway.
        write = connection.get_execution_options().get("lepton_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine
