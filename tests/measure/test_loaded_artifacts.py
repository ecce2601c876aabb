"""Whole artifacts side by side: samples of several instances, and the times of their kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_tvm.errors import InputError
from lepton_tvm.measure import Rounds
from lepton_tvm.measure.loaded_artifacts import LocalArtifacts
from lepton_tvm.runtime import Net, load
from lepton_tvm.runtime.call_times import CallProfiler
from tests.support import toy_artifact as toy

X = {"x": np.ones((2, 8), "float32")}
QUICK = Rounds(least=6, most=6, budget_s=0.01, warmup_s=0)


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """Two artifacts by their hashes."""
    made = {"one.so": toy.dense(), "two.so": toy.dense(2.0)}
    return {toy.write(tmp_path / name, mod): tmp_path / name for name, mod in made.items()}


def test_every_instance_gives_its_share_of_the_samples(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def count(path: Path, threads: int) -> Net:
        loaded.append(path.name)
        return load(path, threads=threads)

    monkeypatch.setattr("lepton_tvm.measure.loaded_artifacts.load", count)
    place = LocalArtifacts()
    place.open(paths, 1)
    found = place.time(list(paths), X, QUICK)
    assert {len(taken) for taken in found.values()} == {6}
    assert min(map(min, found.values())) > 0
    assert loaded == ["one.so", "two.so"] * 3


def test_kernels_are_timed_in_the_order_of_their_calls(paths: dict[str, Path]) -> None:
    place = LocalArtifacts()
    place.open(paths, 1)
    found = place.time_kernels(list(paths), X, QUICK)
    for sha256, rows in found.items():
        names = CallProfiler(paths[sha256]).names
        calls = [n for n in names if not n.startswith("vm.")]
        assert "matmul" in calls[0]
        assert np.array(rows).shape == (6, len(calls))
        assert np.min(rows) > 0


def test_what_was_not_opened_is_refused(paths: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="was not opened"):
        LocalArtifacts().time_kernels(list(paths), X, QUICK)
