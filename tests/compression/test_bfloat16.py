"""bfloat16 from the user's side: one call, one file, a report, clear refusals, close answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_tvm as lt
from lepton_tvm import runtime
from lepton_tvm.artifact import read_manifest
from lepton_tvm.demo.assets import model_path
from lepton_tvm.errors import InputError, TargetError
from lepton_tvm.ir.graph import same_structure
from tests import zoo
from tests.support.command_line import Lepton
from tests.support.kernels import needs


@pytest.fixture(scope="module")
def model() -> Any:
    return lt.load_model(model_path())


@pytest.mark.parametrize("name", ["bfloat16", "bf16"])
def test_quantize_says_what_it_did(model: Any, name: str) -> None:
    made = lt.quantize(model, method=name)
    assert (made.precision, made.calibration_sha256) == ("bfloat16", None)
    assert made.recipe[-1].options == {"method": "bfloat16"}
    report = made.recipe[-1].reports[-1]
    assert (report["name"], report["changed"]) == ("to-bfloat16", 10)
    assert [t.dtype for t in (*made.inputs, *made.outputs)] == ["float32", "float32"]
    assert model.precision == "float32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": np.zeros((1, 1, 28, 28), np.float32)}, "takes no calibration data"),
        ({"config": lt.QuantizeConfig()}, "takes no calibration data and no config"),
        ({"bit_width": 4}, "bit_width=4 is not a choice of method 'bfloat16'"),
    ],
)
def test_options_of_int8_are_refused(model: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lt.quantize(model, method="bfloat16", **options)


def test_a_second_time_is_refused(model: Any) -> None:
    made = lt.quantize(model, method="bfloat16")
    with pytest.raises(InputError, match="is quantized already"):
        lt.quantize(made, method="bfloat16")


def test_saved_and_loaded_again(model: Any, tmp_path: Path) -> None:
    made = lt.quantize(model, method="bfloat16")
    lt.save_model(made, tmp_path / "m.lepton")
    again = lt.load_model(tmp_path / "m.lepton")
    assert again.precision == "bfloat16"
    assert same_structure(again.module, made.module)


def test_a_target_without_bfloat16_is_an_error_that_names_those_with_it(model: Any) -> None:
    made = lt.quantize(model, method="bfloat16")
    with pytest.raises(TargetError, match="x86:avx2 has no instructions: compile for x86:bf16 or"):
        lt.compile(made, target="x86:avx2", output="never.so", db=False)


def test_command_line(lepton: Lepton, tmp_path: Path) -> None:
    needs("bf16")
    ended = lepton("compile", model_path(), "-o", "m.so", "--quantize", "bf16", "--json")
    assert ended.code == 0, ended.err
    assert (ended.json["name"], ended.json["precision"]) == ("bfloat16", "bfloat16")
    heavy = [k for k in read_manifest(tmp_path / "m.so")["kernels"] if k["macs"]]
    assert {k["precision"] for k in heavy} == {"bfloat16"}
    assert "bfloat16" in lepton("inspect", "m.so").out
    assert lepton("compile", model_path(), "--target", "x86:avx2", "--quantize", "bfloat16").code


def test_efficientnet_lite0_agrees_with_float(tmp_path: Path) -> None:
    needs("bf16")
    pictures, labels = zoo.imagenet()
    exact = lt.load_model(zoo.path("efficientnet_lite0"), shapes={"input": (1, 3, 224, 224)})
    answers, sizes = [], []
    for variant in (exact, lt.quantize(exact, method="bfloat16")):
        artifact = lt.compile(variant, output=tmp_path / f"{variant.precision}.so", db=False)
        net = runtime.load(artifact.path, threads=1)
        answers.append(np.concatenate([net(p[None]) for p in pictures]))
        sizes.append(artifact.size_bytes)
        kernels = artifact.manifest["kernels"]
        assert {k["precision"] for k in kernels if k["macs"]} == {variant.precision}
        assert [k["name"] for k in kernels if k["schedule"] == "default"] == []
    wanted, got = answers
    assert (wanted.argmax(-1) == got.argmax(-1)).all()
    assert (got.argmax(-1) == labels).sum() >= (wanted.argmax(-1) == labels).sum()
    sqnr = 10 * np.log10((wanted**2).sum() / ((got - wanted) ** 2).sum())
    assert sqnr > 25, sqnr
    assert sizes[1] < 0.55 * sizes[0]
