"""Bringing a database to the schema of this version, and refusing what cannot be brought there."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from lepton_tvm.db.engine import translated, use_log, writer_of
from lepton_tvm.db.location import Location
from lepton_tvm.errors import DatabaseInputError

__all__ = ["HEAD", "can_write", "prepare"]

#: The newest revision in migrations/versions.
HEAD = "0004"
_KNOWN = ("0001", "0002", "0003", "0004")
_MIGRATIONS = Path(__file__).parent / "migrations"


def prepare(engine: Engine, location: Location, *, create: bool = True) -> None:
    """Create or upgrade the schema in one transaction, or raise DatabaseError and change nothing.

    Several processes may do this at once: one upgrades, the others wait and find it done. Raises
    DatabaseInputError for what cannot be used, without `create` also for a database without tables.
    """
    with translated(location, DatabaseInputError):
        revision = _usable_revision(engine, location)
    if revision is None and not create:
        raise DatabaseInputError(
            f"database {location} is empty; lepton-tvm compile fills it, --db names another"
        )
    if location.readonly and revision != HEAD:
        raise DatabaseInputError(
            f"database {location} is read-only and has the older schema {revision or '(none)'}, "
            f"this version needs {HEAD}; make it writable once: chmod u+w {location.file}"
        )
    with translated(location):
        if location.file is not None and not location.readonly:
            use_log(engine)
        if revision == HEAD:
            return
        with writer_of(engine).begin() as connection:
            if _revision(connection) != HEAD:
                _upgrade(connection, location)


def _usable_revision(engine: Engine, location: Location) -> str | None:
    """The database's revision, None where it has no tables yet; refuses what is not ours."""
    with engine.connect() as connection:
        _refuse_code(connection, location)
        revision = _revision(connection)
        tables = [] if revision else sa.inspect(connection).get_table_names()
    if revision is not None and revision not in _KNOWN:
        raise DatabaseInputError(
            f"database {location} has schema {revision}, this lepton_tvm knows up to {HEAD}: it "
            "was written by a newer version; upgrade with: pip install -U lepton_tvm"
        )
    # alembic_version without a row is a first upgrade that another process has just begun.
    strangers = [t for t in tables if t != "alembic_version"]
    if strangers:
        raise DatabaseInputError(
            f"database {location} holds tables of another program ({', '.join(strangers[:3])}); "
            f"give another {'file' if location.file else 'database'}"
        )
    return revision


def _upgrade(connection: Connection, location: Location) -> None:
    try:
        upgrade(connection)
    except (AttributeError, KeyError) as e:
        # a column holds another type than the version with that schema wrote
        raise DatabaseInputError(
            f"database {location} cannot be upgraded, it holds a record that cannot be read "
            f"({str(e)[:200]}); nothing was changed; restore it from a copy or an export"
        ) from e


def can_write(engine: Engine) -> bool:
    """Whether this user of a PostgreSQL server may store records."""
    asked = sa.text(
        "SELECT has_table_privilege('trials', 'INSERT') AND NOT pg_is_in_recovery() "
        "AND NOT current_setting('transaction_read_only')::boolean"
    )
    with engine.connect() as connection:
        return bool(connection.execute(asked).scalar())


def upgrade(connection: Connection, revision: str = HEAD) -> None:
    """Run Alembic inside the caller's transaction up to `revision`."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _refuse_code(connection: Connection, location: Location) -> None:
    """Raise DatabaseError for a file whose schema does more than hold tables."""
    if connection.dialect.name != "sqlite":
        return
    found = connection.exec_driver_sql(
        "SELECT type, name FROM sqlite_master WHERE type NOT IN ('table', 'index') "
        "OR (type = 'table' AND sql LIKE 'CREATE VIRTUAL%') LIMIT 1"
    ).first()
    if found is not None:
        kind = "virtual table" if found[0] == "table" else found[0]
        raise DatabaseInputError(
            f"database {location} holds the {kind} {str(found[1])[:40]!r}, which lepton_tvm never "
            "makes: reading it could run a stranger's code; ask for an export instead"
        )


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
