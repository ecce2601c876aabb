"""The whole job, as a user runs it; no time is asserted, only what was built and its numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_tvm.artifact import read_manifest
from lepton_tvm.demo import calibration, labelled, model_path

LEPTON = [sys.executable, "-m", "lepton_tvm.cli"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of the one demo run."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(folder: Path) -> dict[str, Any]:
    """What `lepton-tvm demo --json` prints."""
    return run_json(folder, "demo", "--json")


def run_json(folder: Path, *words: str) -> dict[str, Any]:
    """The one JSON object that a command prints."""
    done = subprocess.run(
        [*LEPTON, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def test_shipped_files_are_as_described() -> None:
    assert model_path().stat().st_size < 400_000
    data, samples = labelled(), calibration()
    assert data["input"].shape == (1000, 1, 28, 28)
    assert data["input"].dtype == np.float32
    assert 0.0 <= data["input"].min() < data["input"].max() <= 1.0
    assert set(data["label"].tolist()) == set(range(10))
    assert samples["input"].shape == (128, 1, 28, 28)
    assert set(samples) == {"input"}


def test_float_is_accurate(demo: dict[str, Any]) -> None:
    base = demo["baseline"]
    assert base["precision"] == "float32"
    assert base["accuracy"]["n"] == 1000
    assert base["accuracy"]["value"] >= 0.91
    assert base["speedup"] is None


def test_variants_keep_the_accuracy(demo: dict[str, Any]) -> None:
    int8, pruned = demo["variants"]
    assert (int8["name"], pruned["name"]) == ("int8", "pruned + int8")
    floor = demo["baseline"]["accuracy"]["value"] - 0.005
    assert int8["accuracy"]["value"] >= floor
    assert pruned["accuracy"]["value"] >= floor - 0.01
    for variant in (int8, pruned):
        assert variant["precision"] == "int8"
        assert variant["agreement"] >= 0.95
        assert variant["sqnr_db"] > 15
        assert variant["latency_ms"]["samples"] > 0
        assert len(variant["speedup"]["ci95"]) == 2
        assert variant["size_bytes"] <= 0.35 * demo["baseline"]["size_bytes"]


def test_pruning_removes_work(demo: dict[str, Any]) -> None:
    int8, pruned = (read_manifest(v["artifact"]) for v in demo["variants"])
    assert pruned["macs"] <= 0.7 * int8["macs"]


def test_no_float_convolution_hides_in_int8(demo: dict[str, Any]) -> None:
    for variant in demo["variants"]:
        kernels = read_manifest(variant["artifact"])["kernels"]
        precisions = {k["precision"] for k in kernels if k["macs"]}
        assert precisions == {"int8"}


def test_compare_runs_again_from_the_database(demo: dict[str, Any], folder: Path) -> None:
    again = run_json(folder, "compare", "--json")
    assert again["baseline"]["sha256"] == demo["baseline"]["sha256"]
    assert [v["sha256"] for v in again["variants"]] == [v["sha256"] for v in demo["variants"]]
    assert again["baseline"]["accuracy"] is None


def test_unmet_requirement_ends_with_3(demo: dict[str, Any], folder: Path) -> None:
    words = [*LEPTON, "compare", "--fail-if-slower", "1000", "--json"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert json.loads(done.stdout)["model"] == demo["model"]
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_run_and_inspect_an_artifact(demo: dict[str, Any], folder: Path) -> None:
    artifact = demo["variants"][0]["artifact"]
    np.savez(folder / "x.npz", input=labelled()["input"][:1])
    words = ["run", artifact, "--input", "x.npz", "--output", "y.npz", "--json"]
    (output,) = run_json(folder, *words)["outputs"]
    assert output["shape"] == [1, 10]
    with np.load(folder / "y.npz") as kept:
        assert int(kept[output["name"]].argmax()) == output["argmax"]
    shown = run_json(folder, "inspect", artifact, "--json")
    assert shown["precision"] == "int8"
    assert shown["size_bytes"] == demo["variants"][0]["size_bytes"]


def test_flipped_byte_is_refused(demo: dict[str, Any], folder: Path) -> None:
    data = bytearray(Path(demo["variants"][0]["artifact"]).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "flipped.so").write_bytes(data)
    words = [*LEPTON, "run", "flipped.so", "--input", "x.npz"]
    np.savez(folder / "x.npz", input=labelled()["input"][:1])
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "flipped.so is damaged" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("after", ["loading", "compiling"])
def test_interrupted_compile_leaves_nothing(after: str, tmp_path: Path) -> None:
    words = [*LEPTON, "compile", str(model_path()), "-o", "model.so"]
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith(after):
        assert line, "the command ended before it came to " + after
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert out == ""
    # TVM may log a line of its own behind it
    assert "error: interrupted; nothing unfinished was kept" in err.splitlines()
    assert "Traceback" not in err
    # ONNX Runtime, which onnxslim imports, leaves a hidden file of its own.
    assert [p for p in (tmp_path / "tmp").iterdir() if not p.name.startswith(".")] == []
    assert not (tmp_path / "model.so").exists()
