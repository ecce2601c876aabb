"""Databases for tests, and an artifact file that needs no compiler to make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lepton_tvm.artifact import Manifest
from lepton_tvm.artifact.container import pack
from lepton_tvm.db import Database, open_database


def make_artifact(path: Path, **changes: Any) -> Path:
    """A file that is an artifact in all but its code; `changes` replace manifest fields."""
    fields = {
        "name": "net",
        "precision": "float32",
        "inputs": [{"name": "x", "shape": (1, 4), "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": (1, 2), "dtype": "float32"}],
        "target": "x86:avx2",
        "isa": "avx2",
        "cpu_features": ["avx2"],
        "source_sha256": "a" * 64,
        **changes,
    }
    code = b"\x7fELF" + repr(sorted(changes)).encode() * 20
    path.write_bytes(code + pack(code, Manifest(**fields).to_json()))
    return path


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
