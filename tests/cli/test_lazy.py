"""A command imports what it needs and no more: that is why `db list` answers in an instant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lepton_tvm.cli import _COMMANDS
from lepton_tvm.db import open_database
from tests.db.summary_contract import fill

COMPILER = {"tvm", "tvm_ffi", "onnx", "torch", "xgboost", "numpy", "ml_dtypes", "lepton_tvm.ir"}
UNUSED = COMPILER | {"sqlalchemy", "alembic", "rich", "lepton_tvm.targets"}
REPORT = (
    "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
    "from lepton_tvm.cli import main; main()"
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a model, three kernels and trials."""
    file = tmp_path_factory.mktemp("lazy") / "some.db"
    with open_database(str(file)) as opened:
        fill(opened, 30, kernels=3)
    return file


def imported(*words: object) -> set[str]:
    """The modules that a fresh process holds after `lepton-tvm WORDS`, which must succeed."""
    line = [sys.executable, "-c", REPORT, *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    return set(done.stderr.splitlines()[-1].split())


def commands_in(modules: set[str]) -> set[str]:
    """The commands whose modules are among those."""
    return {name for name in _COMMANDS if f"lepton_tvm.cli.{name}" in modules}


def test_version_imports_no_command() -> None:
    modules = imported("--version")
    assert commands_in(modules) == set()
    assert modules & UNUSED == set()


def test_help_imports_commands_and_nothing_that_they_need() -> None:
    modules = imported("--help")
    assert commands_in(modules) == set(_COMMANDS)
    assert modules & UNUSED == set()


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        (("list",), {"rich.live", "psycopg"}),
        (("list", "--json"), {"rich"}),
        (("show", "big"), {"rich.live", "psycopg"}),
        (("show", "conv1", "--json"), {"rich"}),
        (("why", "big", "--target", "x86:avx2", "--json"), {"rich", "psycopg"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_reading_the_database_imports_only_that(
    words: tuple[str, ...], unused: set[str], database: Path
) -> None:
    modules = imported("db", *words, "--db", database)
    assert "sqlalchemy" in modules
    assert commands_in(modules) == {"db"}
    assert modules & (COMPILER | unused | {"alembic", "mako"}) == set()
