"""A small model and a database for it."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lepton_tvm.db import Database, open_database
from lepton_tvm.frontend import save_model
from lepton_tvm.model import Model
from lepton_tvm.tuning import workshop
from tests.support.postgres import Server
from tests.support.searches import Flatterer
from tests.support.tuned_model import model, url

__all__ = ["db", "flattered", "model", "model_file", "ms", "postgres_url", "url"]


@pytest.fixture(scope="session")
def model_file(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file."""
    path = tmp_path_factory.mktemp("model") / "small.lepton"
    save_model(model, path)
    return path


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """An empty database."""
    with open_database(str(tmp_path / "lepton.db")) as database:
        yield database


@pytest.fixture
def flattered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are said to be right and ten times faster than they are by themselves."""
    monkeypatch.setattr(workshop, "open_runner", lambda *_, **__: Flatterer())


@pytest.fixture
def postgres_url(
    postgres_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A fresh database on a real server; its artifacts lie in the test's folder."""
    monkeypatch.setenv("LEPTON_TVM_ARTIFACTS", str(tmp_path / "artifacts"))
    with postgres_server.database(template="lepton") as fresh:
        yield fresh


@pytest.fixture
def ms(monkeypatch: pytest.MonkeyPatch) -> Any:
    """MetaSchedule without tensor intrinsics, whose import takes half a minute."""
    import tvm

    name = "tvm.s_tir.tensor_intrin"
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(tvm.s_tir, "tensor_intrin", sys.modules[name], raising=False)
    from tvm.s_tir import meta_schedule

    # Its logger, once set up, does not propagate, so pytest gives it handlers of its own, without
    # the names that the next set-up asks for.
    logger = logging.getLogger("tvm.s_tir.meta_schedule")
    logger.handlers.clear()
    logger.propagate = True
    return meta_schedule
