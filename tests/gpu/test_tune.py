"""A whole search for a GPU over RPC: a tracker, and a device whose GPU is the emulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import sqlalchemy as sa
from onnx import TensorProto, helper, numpy_helper

import lepton_tvm as lt
from lepton_tvm.artifact import read_manifest
from lepton_tvm.compiler import build_cuda as device_build
from lepton_tvm.db import open_database
from lepton_tvm.errors import TargetError
from lepton_tvm.farm import Farm
from lepton_tvm.farm.device_pool import farm_target
from lepton_tvm.measure import this_machine
from tests.gpu import emulator
from tests.support import servers

TARGET = "cuda:sm_80"
TRIALS = 12
GPU = "emulated (sm_90, driver for CUDA 13.0)"


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Running]:
    with servers.tracker(tmp_path_factory.mktemp("tracker")) as running:
        yield running


@pytest.fixture(scope="module")
def gpu_host(
    tracker: servers.Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.Running]:
    """A device whose driver is the emulated one."""
    command = ["-m", "lepton_tvm.bench.device_main", "--port", "0", "--tracker", tracker.address]
    folder = tmp_path_factory.mktemp("device")
    extra = emulator.environment()
    with servers.started(folder, "gpu", [*command, "--key", "gpu"], extra=extra) as running:
        running.wait_for("offered")
        yield running


# Python imports a module of the name sitecustomize at its start.
AT_START = """
from lepton_tvm.artifact import nvrtc
from tests.gpu import emulator
nvrtc.compile_binary = emulator.emulated_binary
"""


@pytest.fixture
def emulated_builders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kernels become code for the emulator, here and in the processes that build candidates."""
    monkeypatch.setattr(device_build, "compile_binary", emulator.emulated_binary)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(AT_START)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def small_model(path: Path) -> lt.Model:
    """A convolution and a classifier in int8."""
    rng = np.random.default_rng(0)
    shapes = {"w": (40, 8, 3, 3), "b": (40,), "v": (10, 40), "c": (10,)}
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("GlobalAveragePool", ["z"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "c"], ["out"], transB=1),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("x", (1, 8, 8, 8)), ("out", (1, 10)))
    ]
    graph = helper.make_graph(nodes, "small", ends[0], ends[1], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path)
    return lt.quantize(
        lt.load_model(path), calibration={"x": rng.normal(size=(4, 8, 8, 8)).astype(np.float32)}
    )


def test_a_search_on_a_gpu_host(
    tracker: servers.Running, gpu_host: servers.Running, emulated_builders: None, tmp_path: Path
) -> None:
    model = small_model(tmp_path / "small.onnx")
    url, output = f"sqlite:///{tmp_path / 'tune.db'}", tmp_path / "tuned.so"
    result = lt.tune(
        model, target=TARGET, trials=TRIALS, db=url, output=output,
        tracker=tracker.address, key="gpu",
    )  # fmt: skip
    assert (result.new_trials, result.failed, result.stopped) == (TRIALS, 0, "trials")
    assert result.machine["gpu"] == GPU
    there = dataclasses.replace(this_machine(), gpu=GPU).fingerprint_for("cuda")
    assert there != this_machine().fingerprint
    with open_database(url) as database, database.reading() as reading:
        keys = reading.execute(sa.text("SELECT DISTINCT hardware FROM tuning_keys")).all()
        assert keys == [(there,)]
        winners = reading.execute(sa.text("SELECT count(*) FROM winners")).scalar()
        # the verdict on the whole model, where there was something to judge
        judged = {there} if result.speedup else set()
        assert {m.hardware for m in database.measurements()} == judged
    kernels = {k["name"]: k["decisions"] for k in read_manifest(output)["kernels"]}
    assert winners == len(kernels) == len(result.kernels)
    assert {k.name: dict(k.decisions) for k in result.kernels} == kernels
    assert (result.speedup is not None) == any(kernels.values()) or "stay" in str(result.notes)


def test_devices_without_a_gpu_are_refused(
    tracker: servers.Running, gpu_host: servers.Running
) -> None:
    assert str(farm_target(TARGET, Farm(tracker.address, "gpu"))) == TARGET
    assert (
        str(farm_target("cuda", Farm(tracker.address, "gpu"))) == "cuda:sm_90"
    )  # the devices' own
    told = r"capability 12\.0 or newer, the devices of key 'gpu' .* have emulated \(sm_90"
    with pytest.raises(TargetError, match=told):
        farm_target("cuda:sm_120", Farm(tracker.address, "gpu"))
