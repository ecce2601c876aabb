"""What `inspect` and `doctor` show, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lepton_tvm.cli.findings import ceiling, pair_problems
from lepton_tvm.demo.assets import model_path
from lepton_tvm.passes.registry import PASSES
from lepton_tvm.targets import cpu_flags
from tests.support.command_line import Lepton


def test_doctor(lepton: Lepton) -> None:
    ended = lepton("doctor", "--json")
    data = ended.json
    assert ended.code == (1 if data["problems"] else 0)
    assert data["machine"]["cores"] >= 1
    assert data["machine"]["isas"][-1] == data["machine"]["isa"]
    assert (data["machine"]["amx_permission"] is None) == ("amx_tile" not in cpu_flags())
    assert data["packages"]["apache-tvm"] == "0.27.0.post1"
    assert "CPU" in lepton("doctor").out


def test_doctor_knows_the_pair_that_crashes() -> None:
    assert pair_problems("0.27.0.post1", "0.1.14.post1") == []
    (crash,) = pair_problems("0.27.0.post1", "0.1.15.post2")
    assert "apache-tvm-ffi 0.1.15.post2 is installed" in crash
    assert "segmentation fault" in crash
    assert 'pip install "apache-tvm==0.27.0.post1"' in crash
    assert "apache-tvm 0.26.0 is installed" in pair_problems("0.26.0", "0.1.14.post0")[0]
    assert len(pair_problems(None, None)) == 2


def test_ceiling_follows_the_vector_width() -> None:
    assert ceiling("vnni", 2.0)["float32_gops_per_core"] == 128.0
    assert ceiling("vnni", 2.0)["int8_gops_per_core"] == 512.0
    assert ceiling("avx2", 2.0)["int8_over_float32"] == 2.67
    assert ceiling("avx512", None)["float32_gops_per_core"] is None
    assert ceiling("avx512", 2.0, units=1)["float32_gops_per_core"] == 64.0


@pytest.mark.parametrize(
    ("isa", "int8", "bfloat16"),
    [("sse", 2.67, None), ("avxvnni", 4, None), ("vnni", 4, None), ("bf16", 4, 2), ("amx", 32, 16)],
)
def test_ceiling_of_each_precision(isa: str, int8: float, bfloat16: int | None) -> None:
    found = ceiling(isa, 2.0)
    assert (found["int8_over_float32"], found["bfloat16_over_float32"]) == (int8, bfloat16)
    floats = found["float32_gops_per_core"]
    assert found["int8_gops_per_core"] == pytest.approx(int8 * floats, abs=0.1)
    assert found["bfloat16_gops_per_core"] == (bfloat16 and bfloat16 * floats)


def test_inspect_onnx(lepton: Lepton) -> None:
    data = lepton("inspect", model_path(), "--json").json
    assert data["inputs"] == [{"name": "input", "shape": [1, 1, 28, 28], "dtype": "float"}]
    assert data["operators"]["Conv"] == 9
    assert "operators   Conv 9" in lepton("inspect", model_path()).out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "holds no ONNX graph"),
        (b"plain text, no model\n", "ONNX"),
        ("cut", "ONNX"),
    ],
)
def test_inspect_refuses_bad_onnx(content: Any, message: str, lepton: Lepton) -> None:
    file = Path("bad.onnx")
    if content == "cut":
        content = model_path().read_bytes()[:5000]
    if content is not None:
        file.write_bytes(content)
    ended = lepton("inspect", file)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1


def test_inspect_lists_the_passes(lepton: Lepton) -> None:
    listed = {one["name"]: one for one in lepton("inspect", "--passes", "--json").json["passes"]}
    assert list(listed) == list(PASSES)
    assert listed["fold-batch-norm"]["what"].startswith("Fold the multiply and add")
    assert listed["canonicalize"]["options"] == {}
    options = listed["prune-channels"]["options"]
    assert options["ratio"] == {"type": "float", "required": True, "default": None}
    assert options["round_to"] == {"type": "int", "required": False, "default": 8}
    assert listed["prune-magnitude"]["options"]["skip"]["default"] == []
    assert listed["lower-kernels"]["options"]["winograd"]["default"] is True
    out = lepton("inspect", "--passes").out
    assert "ratio (required)" in out
    assert "round_to=8" in out
    assert all(name in out for name in PASSES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is nothing to inspect; name a .so, .lepton or .onnx file"),
        (("model.onnx", "--passes"), "--passes lists passes and takes no file"),
    ],
)
def test_inspect_takes_a_file_or_the_passes(
    words: tuple[str, ...], message: str, lepton: Lepton
) -> None:
    ended = lepton("inspect", *words)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err


def test_inspect_refuses_a_foreign_library(lepton: Lepton) -> None:
    Path("other.so").write_bytes(b"\x7fELF" + bytes(100))
    ended = lepton("inspect", "other.so")
    assert ended.code == 2
    assert "no lepton_tvm manifest" in ended.err
