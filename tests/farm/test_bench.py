"""Benchmarks on a device: engines in its processes, its machine in the result."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_tvm.bench import bench
from lepton_tvm.bench.device_engines import Engines
from lepton_tvm.errors import InputError
from lepton_tvm.farm.session_files import SessionFiles
from lepton_tvm.measure import Rounds
from tests.support import servers
from tests.support import toy_artifact as toy
from tests.support.command_line import Lepton

QUICK = Rounds(least=3, most=3, budget_s=0.01, warmup_s=0)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = x @ W, x [2, 8]."""
    path = tmp_path_factory.mktemp("model") / "dense.onnx"
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(toy.WEIGHT, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def test_engines_are_timed_on_the_device(
    dense: Path, tracker: servers.Running, other: servers.Running
) -> None:
    peers = ["onnxruntime"] if importlib.util.find_spec("onnxruntime") else []
    found = bench(
        dense,
        against=peers,
        precisions=["float32", "int8"],
        rounds=QUICK,
        tracker=tracker.address,
        key="other",
    )
    assert found.machine.cpu == "Other CPU"
    timed = {(e.engine, e.precision) for e in found.engines}
    assert timed >= {(e, p) for e in ("lepton_tvm", *peers) for p in ("float32", "int8")}
    assert all(len(e.samples_s) == 3 and min(e.samples_s) > 0 for e in found.engines)


def test_peers_that_the_device_lacks_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = Engines(SessionFiles(tmp_path), tmp_path, most_threads=1)
    wanted = {"engine": "openvino", "precision": "float32"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    reason = engines.do("engine_lacks", wanted)["reason"]
    assert reason == "it is not installed there; pip install 'lepton-tvm[peers]' brings it"
    with pytest.raises(InputError, match="unknown engine 'abacus'"):
        engines.do("engine_lacks", {**wanted, "engine": "abacus"})
    with pytest.raises(InputError, match="2 threads were asked for"):
        engines.do("engine_open", {"job": {"threads": 2}})


def test_what_a_device_cannot_do_is_refused(
    lepton: Lepton, dense: Path, tracker: servers.Running, other: servers.Running
) -> None:
    with pytest.raises(InputError, match="run them on the device itself"):
        bench(dense, peak=True, tracker=tracker.address, key="other")
    half = lepton("bench", dense, "--tracker", tracker.address, "--json")
    assert half.code == 2
    assert "needs both --tracker HOST:PORT and --key KEY" in json.loads(half.out)["error"]
