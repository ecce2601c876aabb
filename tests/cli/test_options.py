"""How option values are read, and how wrong ones are refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lepton_tvm.cli.bench import names
from lepton_tvm.cli.options import parse_prune, parse_shapes
from lepton_tvm.errors import InputError
from tests.cli.conftest import Lepton
from tests.cli.test_bad_input import save


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
    assert parse_prune("pruning:0.5") == {"method": "pruning", "sparsity": 0.5}
    assert parse_prune("channels:0.3") == {"method": "channels", "ratio": 0.3}


@pytest.mark.parametrize("text", ["0.5", "channels", "channels:1", "channels:nan", "x:0.5"])
def test_bad_prune(text: str) -> None:
    with pytest.raises(InputError, match="METHOD is one of pruning, channels"):
        parse_prune(text)


def test_engines() -> None:
    assert names("onnxruntime, openvino,onnxruntime") == ("onnxruntime", "openvino")
    assert names("") == ()


def test_compile_looks_for_schedules_of_the_machine_that_is_named(
    lepton: Lepton, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def tuned_by(*_: Any, **options: Any) -> Any:
        asked.append(options["hardware"])
        return lambda _task: None

    monkeypatch.setattr("lepton_tvm.compiler.compile.tuned_by", tuned_by)
    model = save("relu.onnx")
    for options in ((), ("--hardware", "0123456789abcdef")):
        assert lepton("compile", model, *options).code == 0
    assert asked == [None, "0123456789abcdef"]
    assert "its kernels are not known here" in lepton("db", "why", "relu").out
