"""Databases for tests, and an artifact file that needs no compiler to make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_tvm.db import Database, open_database
from tests.support.artifact_file import make_artifact


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'lepton.db'}"


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    with open_database(url) as database:
        yield database


@pytest.fixture
def tuned(db: Database) -> Database:
    """A database that knows the kernels of KEY and OTHER of the contract."""
    db.tuning.add_workloads([(letter * 64, "conv", "IR text") for letter in "wv"])
    return db


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "model.so")
