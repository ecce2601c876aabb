"""Databases as older versions wrote them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

DATA = Path(__file__).parents[1] / "db" / "data"


def restore(revision: str, file: Path) -> None:
    """A file as the version with that schema wrote it."""
    connection = sqlite3.connect(file)
    connection.executescript((DATA / f"schema_{revision}.sql").read_text())
    connection.close()
