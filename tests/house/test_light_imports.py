"""`cli`, `config`, `errors`, `db` and `runtime` load no compiler; the whole house stays typed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.support.fresh_imports import modules_after

HEAVY = ("tvm", "onnx", "torch", "onnxruntime", "scipy", "xgboost")


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
