"""The two folders that people extend stand at the top and are linked into the package."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import lepton_tvm.passes
import lepton_tvm.schedules

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["passes", "schedules"])
def test_link_is_a_relative_link(name: str) -> None:
    link = ROOT / "lepton_tvm" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert (ROOT / name / "__init__.py").is_file()


def test_packages_are_imported_through_the_links() -> None:
    for module in (lepton_tvm.passes, lepton_tvm.schedules):
        assert module.__file__ is not None
        assert Path(module.__file__).parent.parent.name == "lepton_tvm"
