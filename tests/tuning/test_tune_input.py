"""Options and models that `tune` refuses, and how budgets are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from lepton_tvm.errors import InputError, TargetError
from lepton_tvm.frontend import load_model
from lepton_tvm.model import Model
from lepton_tvm.tuning import parse_budget, tune
from tests.support.searches import run


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (3, 3), (None, None)],
)
def test_budgets_are_times(text: Any, seconds: float | None) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "0", "nan", "inf", "10d", "m"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a time: give seconds, or 90s, 10m, 1h"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 4096}, "threads is 4096 and this machine has .* CPUs"),
        ({"trials": "12"}, "trials is '12': it must be an int"),
        ({"seed": -1}, "seed is -1: it must be an int of at least 0"),
        ({"budget": "x"}, "is not a time"),
    ],
)
def test_bad_options_are_refused(
    url: str, model: Model, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tune(model, db=url, **options)


def test_a_target_that_cannot_run_here_needs_devices(url: str, model: Model) -> None:
    with pytest.raises(
        TargetError, match=r"cannot run code for arm:dotprod.*use --tracker and --key"
    ):
        tune(model, target="arm:dotprod", db=url)


def test_a_model_without_kernels_is_told(url: str, tmp_path: Path) -> None:
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])
    named = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [shape], [named])
    onnx.save(helper.make_model(graph), tmp_path / "identity.onnx")
    with pytest.raises(InputError, match="identity has no kernel, so there is nothing to tune"):
        run(url, load_model(tmp_path / "identity.onnx"), 3)


def test_a_file_in_place_of_a_model_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="load_model makes one of a file"):
        tune("model.onnx", db=url)  # type: ignore[arg-type]
