"""Where a database is, from a URL or a file's path, and whether that can be one."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from lepton_tvm.errors import DatabaseInputError

__all__ = ["DEFAULT_URL", "Location", "check_there", "parse_url"]

DEFAULT_URL = "sqlite:///lepton.db"
_HEADER = b"SQLite format 3\x00"


@dataclass(frozen=True)
class Location:
    """Where a database is: its URL, the file (SQLite only), and where its artifacts lie."""

    url: URL
    file: Path | None
    artifacts: Path
    readonly: bool

    def __str__(self) -> str:
        hidden = {k: "***" for k in self.url.query if "pass" in k.lower()}
        return self.url.update_query_dict(hidden).render_as_string(hide_password=True)


def parse_url(url: str | os.PathLike[str] | None) -> Location:
    """Check a database URL (default: LEPTON_TVM_DB, else `sqlite:///lepton.db`).

    A plain path of a file is taken for SQLite. Raises DatabaseInputError.
    """
    if not isinstance(url, str | os.PathLike | None):
        raise DatabaseInputError(
            f"{url!r} is not a database: give an open one, a file or a URL (sqlite:///FILE, "
            "postgresql+psycopg://USER@HOST/NAME), or None for the default"
        )
    text = os.fspath(url or "") or os.environ.get("LEPTON_TVM_DB") or DEFAULT_URL
    try:
        # a file may be called as no URL could be written: "what?.db"
        parsed = make_url(text) if "://" in text else URL.create("sqlite", database=text)
    except (ArgumentError, ValueError):
        shown = re.sub(r"://[^/@]*@", "://***@", text)
        raise DatabaseInputError(
            f"{shown!r} is not a database URL; give sqlite:///FILE or "
            "postgresql+psycopg://USER@HOST/NAME"
        ) from None
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_location(parsed)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername != "postgresql+psycopg":
        raise DatabaseInputError(
            f"database {parsed.render_as_string()}: only sqlite:///FILE and "
            "postgresql+psycopg://... are supported"
        )
    if not parsed.database:
        raise DatabaseInputError(
            f"database {parsed.render_as_string()}: the URL names no database; "
            "add its name: postgresql+psycopg://USER@HOST/NAME"
        )
    return Location(parsed, None, _shared_artifacts(parsed), readonly=False)


def check_there(location: Location, *, create: bool) -> None:
    """Raise DatabaseInputError for a file that is not there and cannot or shall not be made."""
    if location.file is None or location.file.exists():
        return
    if not create:
        raise DatabaseInputError(
            f"database {location} does not exist; lepton-tvm compile makes one, --db names another"
        )
    if not os.access(location.file.parent, os.W_OK):
        raise DatabaseInputError(
            f"database {location}: folder {location.file.parent} is read-only for this user"
        )


def _shared_artifacts(url: URL) -> Path:
    """The folder of a server's artifacts: LEPTON_TVM_ARTIFACTS, else one of this user's own."""
    from platformdirs import user_data_path

    folder = os.environ.get("LEPTON_TVM_ARTIFACTS")
    if folder:
        return Path(folder)
    host = url.host or url.query.get("host") or "local"
    name = f"{url.database}@{host}-{url.port or 5432}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9.@-]+", "_", name)[:80]
    return Path(user_data_path("lepton_tvm")) / "artifacts" / f"{readable}-{digest}"


def _sqlite_location(url: URL) -> Location:
    if not url.database or url.database == ":memory:":
        raise DatabaseInputError("an in-memory database keeps nothing: give sqlite:///FILE")
    absolute = Path(os.path.abspath(Path(url.database).expanduser()))
    location = Location(
        url, absolute, absolute.with_name(f"{absolute.name}.artifacts"), readonly=False
    )
    try:
        _check_file(absolute, location)
        return dataclasses.replace(location, readonly=_is_readonly(absolute))
    except OSError as e:
        raise DatabaseInputError(
            f"database {location}: cannot read {absolute}: {e.strerror or e}"
        ) from e


def _check_file(file: Path, location: Location) -> None:
    """Raise DatabaseInputError for what cannot be a database, OSError for what is not readable."""
    if not os.path.isdir(file.parent):
        raise DatabaseInputError(
            f"database {location}: folder {file.parent} does not exist; "
            f"create it with: mkdir -p {file.parent}"
        )
    try:
        with file.open("rb") as stream:
            header = stream.read(len(_HEADER))
    except FileNotFoundError:
        return
    except IsADirectoryError:
        raise DatabaseInputError(f"database {location}: {file} is a folder; give a file") from None
    if header and header != _HEADER:
        raise DatabaseInputError(
            f"database {location}: {file} is not a SQLite database; give another file"
        )


def _is_readonly(file: Path) -> bool:
    """Whether nobody has write permission, or this user has none (root counts as somebody)."""
    if not file.exists():
        return False
    if not file.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        return True
    return not os.access(file, os.W_OK) or not os.access(file.parent, os.W_OK)
