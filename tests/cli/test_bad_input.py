"""Bad input to `compile`: exit code 2 (or 1), one message, no traceback, nothing left behind."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from lepton_tvm.db import open_database
from lepton_tvm.demo import model_path
from lepton_tvm.errors import TargetError
from lepton_tvm.targets import parse_target
from tests.support.command_line import Ended, Lepton
from tests.support.one_node import save_node


def assert_refused(ended: Ended, *parts: str) -> None:
    """One clear message that holds `parts`, and nothing on stdout."""
    assert ended.code in (1, 2)
    assert ended.out == ""
    assert "Traceback" not in ended.err
    (message,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert "unexpected" not in message
    for part in parts:
        assert part in ended.err
    assert not list(Path().glob("*.so"))


@pytest.mark.parametrize("content", [b"", b"this is no model, it is text\n", "truncated"])
def test_no_model(content: bytes | str, lepton: Lepton) -> None:
    if content == "truncated":
        content = model_path().read_bytes()[:20_000]
    assert isinstance(content, bytes)
    Path("bad.onnx").write_bytes(content)
    assert_refused(lepton("compile", "bad.onnx"), "bad.onnx")


def test_missing_model(lepton: Lepton) -> None:
    assert_refused(lepton("compile", "none.onnx"), "none.onnx", "the file does not exist")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(value: float, lepton: Lepton) -> None:
    save_node("nan.onnx", "Add", weight=[[1, 2, 3, value]])
    assert_refused(lepton("compile", "nan.onnx"), "'w'")


def test_unknown_operator(lepton: Lepton) -> None:
    save_node("op.onnx", "NoSuchOperator")
    assert_refused(lepton("compile", "op.onnx"), "NoSuchOperator")


def test_missing_shapes(lepton: Lepton) -> None:
    save_node("dynamic.onnx", dims=("batch", 4))
    assert_refused(lepton("compile", "dynamic.onnx"), "x", "shape")
    ended = lepton("compile", "dynamic.onnx", "--shape", "other=1,4")
    assert_refused(ended, "other")


@pytest.mark.parametrize("place", ["missing.bin", "../outside.bin"])
def test_weight_file_that_is_not_beside_the_model(
    place: str, lepton: Lepton, tmp_path: Path
) -> None:
    save_node("external.onnx", "Add", weight=[[1, 2, 3, 4]])
    model = onnx.load("external.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    Path("external.onnx").write_bytes(model.SerializeToString())
    (tmp_path.parent / "outside.bin").write_bytes(bytes(16))
    assert_refused(lepton("compile", "external.onnx"), Path(place).name)


@pytest.mark.parametrize("target", ["riscv", "x86:amx2", "", "arm64"])
def test_unknown_target(target: str, lepton: Lepton) -> None:
    assert_refused(lepton("compile", model_path(), "--target", target), "target", "x86:avx2")


@pytest.mark.parametrize(("family", "choice"), [("arm", "arm:neon"), ("cuda", "cuda:sm_80")])
def test_a_family_that_this_machine_is_not_of_asks_for_a_level(
    family: str, choice: str, lepton: Lepton
) -> None:
    try:
        parse_target(family)
    except TargetError:
        pass
    else:
        pytest.skip(f"this machine is a native {family} target")
    assert_refused(lepton("compile", model_path(), "--target", family), "name a", choice)


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"picture": np.zeros((2, 1, 28, 28), np.float32)}, "picture"),
        ({"input": np.zeros((2, 3, 28, 28), np.float32)}, "input"),
        ({"input": np.zeros((2, 1, 28, 28), np.complex64)}, "input"),
        ({"input": np.zeros((0, 1, 28, 28), np.float32)}, "no samples"),
        ({"input": np.full((2, 1, 28, 28), np.nan, np.float32)}, "NaN"),
    ],
)
def test_bad_calibration(arrays: dict[str, Any], part: str, lepton: Lepton) -> None:
    np.savez("c.npz", **arrays)
    ended = lepton("compile", model_path(), "--quantize", "int8", "--calib", "c.npz")
    assert_refused(ended)
    assert part.lower() in ended.err.lower()


@pytest.mark.parametrize("source", ["none.npz", "no_module:function", "json:nothing", "x"])
def test_calibration_that_cannot_be_read(source: str, lepton: Lepton) -> None:
    ended = lepton("compile", model_path(), "--quantize", "int8", "--calib", source)
    assert_refused(ended, source.partition(":")[0])


def test_read_only_database(lepton: Lepton) -> None:
    open_database("sqlite:///here.db").close()
    os.chmod("here.db", 0o444)
    before = Path("here.db").read_bytes()
    ended = lepton("compile", model_path(), "--db", "sqlite:///here.db")
    assert_refused(ended, "read-only", "chmod u+w")
    assert Path("here.db").read_bytes() == before


def test_database_of_a_newer_version(lepton: Lepton) -> None:
    open_database("sqlite:///new.db").close()
    with sqlite3.connect("new.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    ended = lepton("compile", model_path(), "--db", "sqlite:///new.db")
    assert_refused(ended, "schema 9999", "newer version")


def test_database_that_is_another_file(lepton: Lepton) -> None:
    shutil.copy(model_path(), "model.db")
    assert_refused(lepton("db", "list", "--db", "model.db"), "is not a SQLite database")


def test_output_in_a_folder_that_is_not_there(lepton: Lepton) -> None:
    ended = lepton("compile", model_path(), "-o", "nowhere/model.so")
    assert_refused(ended, "nowhere", "does not exist")


def test_the_peak_of_a_device_is_not_measured_from_here(lepton: Lepton) -> None:
    ended = lepton("bench", "--peak", "--tracker", "127.0.0.1:9190", "--key", "k")
    assert ended.code == 2
    assert "--peak measures this machine alone: run it on the device itself" in ended.err
