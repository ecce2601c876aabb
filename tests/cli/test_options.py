"""How option values are read, and how wrong ones are refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lepton_tvm.cli.bench import engines, names
from lepton_tvm.cli.options import current_methods, parse_prune, parse_shapes
from lepton_tvm.errors import InputError
from tests.support.command_line import Lepton
from tests.support.one_node import save_node


def test_shapes() -> None:
    assert parse_shapes(None) is None
    assert parse_shapes(["x=1, 3,4", "a=b=2"]) == {"x": (1, 3, 4), "a=b": (2,)}


@pytest.mark.parametrize("text", ["x", "=1,2", "x=", "x=1,,2", "x=1,-2", "x=0", "x=1,a"])
def test_bad_shape(text: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"--shape {text!r} is not NAME=D,D,...")):
        parse_shapes([text])


def test_shape_named_twice() -> None:
    with pytest.raises(InputError, match="names the input 'x' twice"):
        parse_shapes(["x=1", "x=2"])


def test_prune() -> None:
    assert parse_prune("magnitude:0.5") == {"method": "magnitude", "sparsity": 0.5}
    assert parse_prune("channels:0.3") == {"method": "channels", "ratio": 0.3}


@pytest.mark.parametrize("text", ["0.5", "channels", "channels:1", "channels:nan", "x:0.5"])
def test_bad_prune(text: str) -> None:
    with pytest.raises(InputError, match="METHOD is one of magnitude, channels"):
        parse_prune(text)


def test_engines() -> None:
    assert names("onnxruntime, openvino,onnxruntime") == ("onnxruntime", "openvino")
    assert names("") == ()
    assert engines("none") == ()
    assert engines("openvino") == ("openvino",)


def test_the_old_spelling_of_no_engines_works_with_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert engines("") == ()
    assert capsys.readouterr().err == (
        'warning: --against "" is an old spelling: write --against none\n'
    )
    assert engines("none") == ()
    assert capsys.readouterr().err == ""


def test_the_old_name_of_magnitude_pruning_works_with_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = ["pruning:0.5", "channels:0.3"]
    assert current_methods(texts) == ["magnitude:0.5", "channels:0.3"]
    assert capsys.readouterr().err == (
        "warning: --prune pruning:0.5 is an old spelling: write --prune magnitude:0.5\n"
    )
    assert current_methods(None) is None
    assert capsys.readouterr().err == ""


def test_compile_prunes_by_the_old_name_and_warns_once(lepton: Lepton) -> None:
    save_node("relu.onnx")
    ended = lepton("compile", "relu.onnx", "--prune", "pruning:0.5", "--quantize", "int4")
    assert ended.code == 2
    assert ended.err.count("is an old spelling") == 1
    assert "--quantize 'int4' is not known" in ended.err


def test_compile_looks_for_schedules_of_the_machine_that_is_named(
    lepton: Lepton, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def tuned_by(*_: Any, **options: Any) -> Any:
        asked.append(options["hardware"])
        return lambda _task: None

    monkeypatch.setattr("lepton_tvm.compiler.compile.tuned_by", tuned_by)
    model = save_node("relu.onnx")
    for options in ((), ("--hardware", "0123456789abcdef")):
        assert lepton("compile", model, *options).code == 0
    assert asked == [None, "0123456789abcdef"]
    assert "its kernels are not known here" in lepton("db", "why", "relu").out
