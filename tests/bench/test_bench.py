"""Benchmarks: engines in their own processes, what is refused, what is said."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lepton_tvm.bench
from lepton_tvm.bench import bench
from lepton_tvm.bench.engines import Job, calibration_samples, read_arrays, write_arrays
from lepton_tvm.bench.process import EngineFailed, EngineProcess
from lepton_tvm.errors import InputError, ModelError
from lepton_tvm.measure import Rounds
from tests.artifact import toy

QUICK = Rounds(least=3, most=3, budget_s=0.01, warmup_s=0)
needs_onnxruntime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution with a global pool: x [1, 3, 12, 12] -> y [1, 16, 1, 1]."""
    weight = np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype("float32")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 1, 1])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("bench") / "small.onnx"
    onnx.save(made, path)
    return path


@needs_onnxruntime
def test_side_by_side(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = bench(model, against=["onnxruntime"], rounds=QUICK)
    shown = json.loads(json.dumps(found.to_json()))
    assert set(shown) == {"model", "machine", "threads", "engines"}
    assert [(e["engine"], e["precision"]) for e in shown["engines"]] == [
        ("lepton_tvm", "float32"),
        ("lepton_tvm", "int8"),
        ("onnxruntime", "float32"),
        ("onnxruntime", "int8"),
    ]
    for engine in shown["engines"]:
        assert set(engine) == {"engine", "version", "precision", "isa", "latency_ms"}
        assert set(engine["latency_ms"]) == {"median", "ci95", "samples"}
        assert engine["latency_ms"]["samples"] == 3
        assert engine["latency_ms"]["median"] > 0
    assert any("8 random inputs (seed 0)" in note for note in found.report)
    assert "onnxruntime" in str(found)
    assert list(tmp_path.iterdir()) == [], "a benchmark leaves nothing in the working folder"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"against": ["tensorrt"]}, "unknown engine 'tensorrt'; known are onnxruntime, openvino"),
        ({"against": "onnxruntime"}, "a list of engine names"),
        ({"threads": 0}, "threads must be"),
        ({"precisions": ["int4"]}, "precisions are float32 and int8"),
        ({"precisions": []}, "precisions are float32 and int8"),
    ],
)
def test_refused_before_the_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench("no such file.onnx", **options)


def test_missing_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"'openvino' is not installed; .*lepton-tvm\[peers\]"):
        bench("no such file.onnx", against=["openvino"])


def test_missing_model() -> None:
    with pytest.raises(ModelError):
        bench("no such file.onnx")


def test_module_is_the_function_too() -> None:
    with pytest.raises(InputError, match="unknown engine"):
        lepton_tvm.bench("x.onnx", against=["none"])  # type: ignore[operator]


def job(folder: Path, **changes: Any) -> Job:
    write_arrays(folder / "x.npz", {"x": np.ones((2, 8), "float32")})
    made = Job(
        engine="lepton_tvm",
        precision="float32",
        model=str(folder / "model.so"),
        inputs=str(folder / "x.npz"),
        calibration=str(folder),
        threads=1,
        scratch=str(folder),
        cpus=tuple(os.sched_getaffinity(0)),
    )
    return dataclasses.replace(made, **changes)


def test_engine_in_its_own_process(tmp_path: Path) -> None:
    toy.write(tmp_path / "model.so")
    with EngineProcess(job(tmp_path)) as engine:
        assert engine.isa == "avx2"
        assert "tvm" in engine.version
        assert engine.run(3) > 0


def test_engine_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"engine lepton_tvm \(float32\) failed: ArtifactError"):
        EngineProcess(job(tmp_path))


def test_engine_that_dies_is_told(tmp_path: Path) -> None:
    toy.write(tmp_path / "model.so")
    with EngineProcess(job(tmp_path)) as engine:
        engine._process.kill()
        engine._process.wait()
        with pytest.raises(EngineFailed, match=r"engine lepton_tvm \(float32\) ended"):
            engine.run(1)


def test_arrays_of_any_name_come_back(tmp_path: Path) -> None:
    arrays = {"file": np.arange(6).reshape(2, 3), "a/b:0": np.array([1.5], "float32")}
    write_arrays(tmp_path / "0.npz", arrays)
    back = read_arrays(str(tmp_path / "0.npz"))
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
    write_arrays(tmp_path / "1.npz", {"x": np.zeros(1)})
    assert [list(s) for s in calibration_samples(job(tmp_path, inputs=""))][1] == ["x"]
    assert zipfile.is_zipfile(io.BytesIO((tmp_path / "0.npz").read_bytes()))
