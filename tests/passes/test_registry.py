from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from lepton_tvm.passes.graph import canonical_passes
from lepton_tvm.passes.registry import PASSES


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_is_a_frozen_dataclass_and_one_file_of_its_name(name: str) -> None:
    found = PASSES[name]
    assert found.name == name
    assert dataclasses.is_dataclass(found)
    assert found.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert found.__doc__
    assert found.__module__.rpartition(".")[2] == name.replace("-", "_")
    assert found.__name__.lower() == name.replace("-", "")


def test_every_pass_of_the_rooms_is_registered() -> None:
    """A class with a name and a `__call__`, in any module that the registry has imported."""
    found = {
        value
        for name, module in list(sys.modules.items())
        if name.startswith("lepton_tvm.passes.")
        for value in vars(module).values()
        if isinstance(value, type) and isinstance(getattr(value, "name", None), str)
        if value.__module__.startswith("lepton_tvm.passes.") and dataclasses.is_dataclass(value)
    }
    assert found == set(PASSES.values())


def test_the_canonical_passes_are_registered() -> None:
    for p in canonical_passes():
        assert PASSES[p.name] is type(p)


def test_every_room_says_what_it_is() -> None:
    folder = Path(sys.modules["lepton_tvm.passes"].__path__[0])
    doors = [path for path in folder.rglob("__init__.py")]
    assert len(doors) >= 6
    for door in doors:
        assert len(door.read_text().splitlines()[0]) > 40, door
