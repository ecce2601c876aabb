"""Databases with toy artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lepton_tvm.db import Database, open_database
from tests.support import toy_artifact as toy

__all__ = ["add", "db"]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """An empty one."""
    with open_database(str(tmp_path / "lepton.db")) as database:
        yield database


@pytest.fixture
def add(db: Database, tmp_path: Path) -> Any:
    """`add("int8", 1.1)` stores a variant whose outputs are 1.1 times as large; its sha256."""

    def add_variant(variant: str = "float32", scale: float = 1.0, **changes: Any) -> str:
        precision = "int8" if "int8" in variant else "float32"
        fields = {"precision": precision, "variant": variant, **changes}
        toy.write(tmp_path / "v.so", toy.dense(scale), **fields)
        return db.add_artifact(tmp_path / "v.so").sha256

    return add_variant
