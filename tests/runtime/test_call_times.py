"""Times of single calls inside an artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_tvm import runtime
from lepton_tvm.errors import ArtifactError
from lepton_tvm.runtime.call_times import CallProfiler
from tests.support import toy_artifact as toy


def test_every_call_is_timed(tmp_path: Path) -> None:
    toy.write(tmp_path / "toy.so")
    profiler = CallProfiler(tmp_path / "toy.so", {"x": np.ones((2, 8), "float32")})
    assert any("matmul" in name for name in profiler.names)
    for number in (1, 3):
        whole, calls = profiler.run(number)
        assert len(calls) == len(profiler.names)
        assert all(seconds > 0 for seconds in calls)
        assert sum(calls) < whole


def test_calls_are_those_of_the_kernels_in_order(tmp_path: Path) -> None:
    toy.write(tmp_path / "two.so", toy.two_by_two())
    kernels = [n for n in CallProfiler(tmp_path / "two.so").names if not n.startswith("vm.")]
    assert kernels == ["add", "multiply"]


def test_profiling_leaves_other_nets_alone(tmp_path: Path) -> None:
    toy.write(tmp_path / "toy.so")
    x = np.ones((2, 8), "float32")
    net = runtime.load(tmp_path / "toy.so")
    before = net(x)
    profiler = CallProfiler(tmp_path / "toy.so", {"x": x}, threads=2)
    np.testing.assert_array_equal(net(x), before)
    assert profiler.run()[0] > 0


def test_missing_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        CallProfiler(tmp_path / "none.so")
