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
from lepton_tvm.bench import bench, engines
from lepton_tvm.bench import engine_process as process
from lepton_tvm.bench.engine_places import busy_machine
from lepton_tvm.bench.engine_process import EngineFailed, EngineProcess
from lepton_tvm.bench.engines import ENGINES, Job, calibration_samples
from lepton_tvm.errors import InputError, ModelError, TargetError
from lepton_tvm.measure import Rounds
from lepton_tvm.measure.timing_inputs import read_arrays, write_arrays
from lepton_tvm.targets import ISAS, best_isa
from tests.support import toy_artifact as toy

QUICK = Rounds(least=3, most=3, budget_s=0.01, warmup_s=0)
needs_onnxruntime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"
)


def node(op: str, operand: str, result: str, **attributes: Any) -> onnx.NodeProto:
    """An op; a convolution reads `w`, 16 filters of 3x3."""
    if op == "Conv":
        return helper.make_node(op, [operand, "w"], [result], kernel_shape=[3, 3])
    return helper.make_node(op, [operand], [result], **attributes)


def saved(path: Path, kind: int, *nodes: onnx.NodeProto) -> Path:
    """A model file: x [1, 3, 12, 12] -> y [1, 16, 1, 1]."""
    weight = np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype("float32")
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", kind, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 1, 1])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution with a global pool."""
    file = tmp_path_factory.mktemp("bench") / "small.onnx"
    ops = node("Conv", "x", "c"), node("Relu", "c", "r"), node("GlobalAveragePool", "r", "y")
    return saved(file, TensorProto.FLOAT, *ops)


BFLOAT16 = best_isa().bf16


@needs_onnxruntime
def test_side_by_side(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = bench(model, against=["onnxruntime"], rounds=QUICK)
    shown = json.loads(json.dumps(found.to_json()))
    assert set(shown) == {"model", "machine", "threads", "engines", "ratios", "report"}
    assert [(e["engine"], e["precision"]) for e in shown["engines"]] == [
        ("lepton_tvm", "float32"),
        *([("lepton_tvm", "bfloat16")] if BFLOAT16 else []),
        ("lepton_tvm", "int8"),
        ("onnxruntime", "float32"),
        ("onnxruntime", "int8"),
    ]
    for engine in shown["engines"]:
        assert set(engine) == {"engine", "version", "precision", "isa", "latency_ms"}
        assert set(engine["latency_ms"]) == {"median", "ci95", "samples"}
        assert engine["latency_ms"]["samples"] == 3
        assert engine["latency_ms"]["median"] > 0
    ratios = {r["precision"]: r for r in shown["ratios"]}
    assert set(ratios) == {e["precision"] for e in shown["engines"]}
    assert ratios["float32"]["best_peer"] == "onnxruntime"
    assert ratios["float32"]["speedup_over_best_float32"] is None
    ours, theirs = (
        next(
            e["latency_ms"]["median"]
            for e in shown["engines"]
            if (e["engine"], e["precision"]) == (engine, "int8")
        )
        for engine in ("lepton_tvm", "onnxruntime")
    )
    assert ratios["int8"]["ours_over_best_peer"]["ratio"] == pytest.approx(ours / theirs)
    assert any("8 random inputs (seed 0)" in note for note in found.report)
    if BFLOAT16:
        assert ratios["bfloat16"]["best_peer"] is None
        assert any("onnxruntime (bfloat16): ONNX Runtime has no" in n for n in found.report)
    assert "onnxruntime" in str(found)
    assert list(tmp_path.iterdir()) == [], "a benchmark leaves nothing in the working folder"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"against": ["tensorrt"]}, "unknown engine 'tensorrt'; known are onnxruntime, openvino"),
        ({"against": "onnxruntime"}, "a list of engine names"),
        ({"threads": 0}, "threads must be"),
        ({"precisions": ["int4"]}, "precisions are float32, bfloat16, int8, found"),
        ({"precisions": []}, "precisions are float32, bfloat16, int8, found"),
        ({"peers_isa": "neon"}, "unknown instruction set 'neon' for peers: one of sse, avx2"),
    ],
)
def test_refused_before_the_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench("no such file.onnx", **options)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution of uint8 pictures."""
    file = tmp_path_factory.mktemp("bench") / "pixels.onnx"
    cast = node("Cast", "x", "f", to=TensorProto.FLOAT)
    ops = cast, node("Conv", "f", "c"), node("GlobalAveragePool", "c", "y")
    return saved(file, TensorProto.UINT8, *ops)


@pytest.mark.skipif(
    not all(importlib.util.find_spec(m) for m in ("onnxruntime", "openvino", "nncf")),
    reason="the extra 'peers' is not installed",
)
@pytest.mark.parametrize("name", ["model", "pixels"])
def test_peers_by_their_own_tools(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    found = bench(path, against=["openvino", "onnxruntime"], rounds=QUICK, peers_isa="avx2")
    timed = {(e.engine, e.precision) for e in found.engines}
    wanted = {(e, p) for e in ("openvino", "onnxruntime") for p in ("float32", "int8")}
    assert timed >= wanted, found.report
    if BFLOAT16:
        reason = "left out: engine openvino (bfloat16): it is kept to avx2, which has no bfloat16"
        assert reason in found.report
    isas = {e.engine: e.isa for e in found.engines}
    assert isas["openvino"] == "auto (up to avx2)"
    assert isas["onnxruntime"] == f"auto (up to {best_isa().name})"
    assert "engine onnxruntime has no switch for avx2: it chooses for itself" in found.report


def test_bfloat16_needs_a_target_that_has_it() -> None:
    with pytest.raises(TargetError, match=r"x86:vnni has no bfloat16 instructions \(x86:bf16, x86"):
        bench("no such file.onnx", target="x86:vnni", precisions=["bfloat16"])


def test_peers_without_bfloat16_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no bfloat16" in str(ENGINES["onnxruntime"].lacks("bfloat16"))
    assert ENGINES["onnxruntime"].lacks("int8") is None
    monkeypatch.setattr(engines, "cpu_flags", lambda: frozenset({"avx2"}))
    assert "AVX512-BF16 or AMX" in str(ENGINES["openvino"].lacks("bfloat16"))
    monkeypatch.setattr(engines, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    assert ENGINES["openvino"].lacks("bfloat16") is None


def test_peers_isa_reaches_the_engine_that_has_a_switch(tmp_path: Path) -> None:
    limit = ENGINES["openvino"].isa_limit
    assert limit is not None
    assert {limit(isa)["ONEDNN_MAX_CPU_ISA"] for isa in ISAS} >= {"AVX2", "AVX512_CORE_AMX"}
    limited = job(tmp_path, engine="openvino", max_isa="avx2")
    assert process._environment(limited)["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert "ONEDNN_MAX_CPU_ISA" not in process._environment(job(tmp_path, max_isa="avx2"))


def test_two_threads(model: Path) -> None:
    found = bench(model, threads=2, precisions=["float32"], rounds=QUICK)
    assert (found.threads, [e.precision for e in found.engines]) == (2, ["float32"])
    shared = any("2 threads shared 1 CPU(s)" in note for note in found.report)
    assert shared == (len(os.sched_getaffinity(0)) == 1)


def test_profile_and_peak(model: Path, tmp_path: Path) -> None:
    found = bench(model, rounds=QUICK, profile=True, peak=True)
    shown = json.loads(json.dumps(found.to_json()))
    assert [p["precision"] for p in shown["profile"]] == [e["precision"] for e in shown["engines"]]
    assert shown["peak"]["compute"]
    for profile in shown["profile"]:
        kernels = profile["kernels"]
        assert sum(k["share"] for k in kernels) == pytest.approx(1)
        assert sum(k["us"] for k in kernels) == pytest.approx(profile["kernels_ms"] * 1e3)
        (conv,) = [k for k in kernels if k["op"] == "conv2d"]
        assert conv["gops"] == pytest.approx(2 * 43_200 / conv["us"] / 1e3)
        assert conv["peak_share"] > 0
        assert all(k["gbs"] > 0 and k["memory_share"] > 0 and k["calls"] == 1 for k in kernels)
    floats, *_, int8 = shown["profile"]
    assert "conv2d" in str(found)
    assert {k["instruction"] for k in floats["kernels"] if k["gops"]} <= {"fma", "mul+add"}
    assert any(k["precision"] == "int8" for k in int8["kernels"])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_engine_is_stopped_between_runs(tmp_path: Path) -> None:
    toy.write(tmp_path / "model.so")
    with EngineProcess(job(tmp_path)) as engine:
        stat = Path(f"/proc/{engine._process.pid}/stat")
        for _ in range(2):
            engine.run(1)
            for _ in range(1000):  # the signal is on its way
                state = stat.read_text().rpartition(")")[2].split()[0]
                if state == "T":
                    break
            assert state == "T"
    assert engine._process.returncode is not None


def test_a_busy_machine_is_told(tmp_path: Path) -> None:
    toy.write(tmp_path / "model.so")
    with EngineProcess(job(tmp_path, threads=2)) as engine:
        engine.run(3)
        assert engine.ran > 0
        engine.ran, engine.waited = 10.0, 0.1
        assert busy_machine([engine], cpus=2) == []
        engine.waited = 5.0
        (said,) = busy_machine([engine], cpus=2)
        assert "threads waited 25% of the time" in said
        (said,) = busy_machine([engine], cpus=1)
        assert "2 threads shared 1 CPU(s)" in said


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
