"""`cli`, `config`, `errors`, `db` and `runtime` load no compiler; the whole house stays typed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

HEAVY = ("tvm", "onnx", "torch", "onnxruntime", "scipy", "xgboost")


def modules_after(code: str) -> set[str]:
    """The top-level modules a fresh interpreter holds after `code`."""
    report = "; import sys; print(*{m.split('.')[0] for m in sys.modules if sys.modules[m]})"
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    ["lepton_tvm", "lepton_tvm.cli", "lepton_tvm.errors", "lepton_tvm.db", "lepton_tvm.runtime"],
)
def test_import_loads_nothing_heavy(module: str) -> None:
    loaded = modules_after(f"import {module}")
    assert "lepton_tvm" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_every_command_module_is_light() -> None:
    loaded = modules_after(
        "import lepton_tvm.cli as cli; from typer.main import get_command;"
        "print(*get_command(cli.app).commands.values())"  # each is imported when it is looked at
    )
    assert loaded.isdisjoint((*HEAVY, "numpy", "sqlalchemy"))


def test_package_is_marked_as_typed() -> None:
    spec = find_spec("lepton_tvm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    from pathlib import Path

    assert (Path(spec.submodule_search_locations[0]) / "py.typed").is_file()
