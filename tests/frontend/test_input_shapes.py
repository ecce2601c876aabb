"""Fixing dynamic shapes: what is asked for, and every way of asking wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_tvm.errors import ModelError
from lepton_tvm.frontend import load_model
from tests.support.onnx_models import INT64, Graph, assert_agrees, conv_net


def net(folder: Path, shape: Sequence[int | str]) -> Path:
    return conv_net(17, shape).save(folder / "model.onnx")


def refused(path: Path, match: str, **arguments: Any) -> str:
    with pytest.raises(ModelError, match=match) as caught:
        load_model(path, **arguments)
    return str(caught.value)


def test_dynamic_dimensions_are_fixed(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is the oracle of this test")
    path = net(tmp_path, ["batch", 3, "height", "width"])
    model = load_model(path, shapes={"x": (2, 3, 12, 20)})
    assert model.inputs[0].shape == (2, 3, 12, 20)
    assert model.outputs[0].shape == (2, 5)
    assert model.report[0].options == {"shapes": {"x": [2, 3, 12, 20]}}
    assert_agrees(model, path)


def test_numpy_integers_and_lists_are_fine(tmp_path: Path) -> None:
    path = net(tmp_path, ["batch", 3, 16, 16])
    shape: Any = [np.int64(2), 3, np.int32(16), 16]
    assert load_model(path, shapes={"x": shape}).inputs[0].shape == (2, 3, 16, 16)


def test_missing_shapes_name_each_dimension_and_give_an_example(tmp_path: Path) -> None:
    path = net(tmp_path, ["batch", 3, "height", "width"])
    message = refused(path, r"dynamic dimension 0 \('batch'\), dimension 2 \('height'\)")
    assert "input 'x' [batch, 3, height, width]" in message
    assert "dimension 3 ('width')" in message
    assert 'shapes={"x": (1, 3, 224, 224)}' in message


def test_a_dynamic_batch_is_not_guessed(tmp_path: Path) -> None:
    path = net(tmp_path, ["N", 3, 16, 16])
    assert 'shapes={"x": (1, 3, 16, 16)}' in refused(path, r"dynamic dimension 0 \('N'\)")


def test_negative_and_unnamed_dimensions_are_dynamic(tmp_path: Path) -> None:
    path = net(tmp_path, [-1, 3, "?", "?"])
    refused(path, r"dimension 0 \(unnamed\), dimension 2 \('\?'\)")
    model = load_model(path, shapes={"x": (1, 3, 16, 12)})
    assert model.inputs[0].shape == (1, 3, 16, 12)


def test_all_inputs_are_reported_together(tmp_path: Path) -> None:
    g = Graph()
    ids = g.input("ids", ["batch", "length"], INT64)
    scores = g.input("scores", ["batch", 4])
    g.output(g.op("Add", g.op("Gather", g.normal(10, 4), ids), scores))
    message = refused(g.save(tmp_path / "model.onnx"), "input 'ids'")
    assert "input 'scores' [batch, 4]" in message
    assert 'shapes={"ids": (1, 128), "scores": (1, 4)}' in message


def test_input_without_any_shape(tmp_path: Path) -> None:
    g = Graph()
    g.output(g.op("Relu", g.input("x", None)))
    path = g.save(tmp_path / "model.onnx")
    refused(path, "input 'x' has no shape at all in the file; say which, for example shapes=")
    assert load_model(path, shapes={"x": (2, 3)}).outputs[0].shape == (2, 3)


WRONG: dict[str, tuple[Any, str]] = {
    "unknown-name": ({"image": (1, 3, 16, 16)}, "no input 'image'; its inputs are 'x'"),
    "rank": ({"x": (1, 3, 16)}, r"4 dimensions \[n, 3, 16, 16\], but shapes gives 3"),
    "contradiction": ({"x": (1, 4, 16, 16)}, "dimension 1 is 3 in the file but 4 in shapes"),
    "zero": ({"x": (0, 3, 16, 16)}, "whole number of at least 1"),
    "negative": ({"x": (-1, 3, 16, 16)}, "whole number of at least 1"),
    "fraction": ({"x": (1.5, 3, 16, 16)}, "whole number of at least 1"),
    "bool": ({"x": (True, 3, 16, 16)}, "whole number of at least 1"),
    "text": ({"x": "1,3,16,16"}, "whole number of at least 1"),
    "none": ({"x": None}, "whole number of at least 1"),
    "not-a-mapping": ((1, 3, 16, 16), "shapes must map input names to shapes"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_shapes(kind: str, tmp_path: Path) -> None:
    shapes, match = WRONG[kind]
    refused(net(tmp_path, ["n", 3, 16, 16]), match, shapes=shapes)


def test_zero_sized_dimension_in_the_file(tmp_path: Path) -> None:
    refused(net(tmp_path, [0, 3, 16, 16]), "input 'x' has a dimension of size 0")


def test_static_shapes_may_be_repeated(tmp_path: Path) -> None:
    path = net(tmp_path, [1, 3, 16, 16])
    assert load_model(path, shapes={"x": (1, 3, 16, 16)}).inputs[0].shape == (1, 3, 16, 16)


def test_weights_listed_as_inputs_are_not_asked_for(tmp_path: Path) -> None:
    """Files of IR version 3 list every weight among the inputs."""
    g = conv_net(9, [1, 3, 16, 16])
    g.input("w", [8, 3, 3, 3])
    path = g.save(tmp_path / "model.onnx")
    assert [info.name for info in load_model(path).inputs] == ["x"]
    refused(path, "no input 'w'; its inputs are 'x'", shapes={"w": (8, 3, 3, 3)})
