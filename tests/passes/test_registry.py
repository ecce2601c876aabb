from __future__ import annotations

import dataclasses

import pytest

from lepton_tvm.passes.canonical import canonical_passes
from lepton_tvm.passes.registry import PASSES, load_pass


@pytest.mark.parametrize("name", PASSES)
def test_every_entry_loads_a_frozen_dataclass_of_that_name(name: str) -> None:
    found = load_pass(name)
    assert found.name == name
    assert dataclasses.is_dataclass(found)
    assert found.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert found.__doc__


def test_the_canonical_passes_are_registered() -> None:
    for p in canonical_passes():
        assert load_pass(p.name) is type(p)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no pass is called 'fold'; there are: canonicalize, fold-"):
        load_pass("fold")
