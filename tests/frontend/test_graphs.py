"""Graphs of unusual form that are right all the same."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_tvm.frontend import load_model
from tests.support.onnx_models import FLOAT, INT64, Graph, assert_agrees, conv_net, run_model

pytest.importorskip("onnxruntime", reason="ONNX Runtime is the oracle of these tests")


def agrees(g: Graph, folder: Path) -> None:
    path = g.save(folder / "model.onnx")
    model = load_model(path)
    assert [info.name for info in model.outputs] == [o.name for o in g.outputs]
    assert_agrees(model, path)


def test_weights_as_constant_nodes(tmp_path: Path) -> None:
    model = conv_net().model()
    constants = [
        helper.make_node("Constant", [], [t.name], f"c_{t.name}", value=t)
        for t in model.graph.initializer
    ]
    nodes = [*constants, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert_agrees(load_model(path), path)


def test_constants_of_every_kind(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", [2, 3])
    for value in ({"value_float": 1.5}, {"value_floats": [1.0, 2.0, 3.0]}):
        x = g.op("Add", x, g.op("Constant", **value))
    x = g.op("Unsqueeze", x, g.op("Constant", value_ints=[1]))
    g.output(g.op("Gather", x, g.op("Constant", value_int=0), axis=1))
    agrees(g, tmp_path)


def test_integer_inputs(tmp_path: Path) -> None:
    g = Graph()
    ids, mask = g.input("ids", [2, 5], INT64), g.input("mask", [2, 5], INT64)
    x = g.op("Gather", g.normal(10, 4), ids)
    m = g.op("Unsqueeze", g.op("Cast", mask, to=FLOAT), g.weight(np.array([2])))
    g.output(g.op("ReduceMean", g.op("Mul", x, m), axes=[1]))
    agrees(g, tmp_path)


@pytest.mark.parametrize("index", [0, -1, [1, -2], [[0], [2]]])
def test_gather_of_constants(index: object, tmp_path: Path) -> None:
    g = Graph()
    g.output(g.op("Gather", g.input("x", [2, 3, 4]), g.weight(np.array(index)), axis=1))
    agrees(g, tmp_path)


def test_gather_never_reads_outside(tmp_path: Path) -> None:
    g = Graph()
    ids = g.input("ids", [4], INT64)
    g.output(g.op("Gather", g.weight(np.arange(5, dtype=np.float32)), ids))
    model = load_model(g.save(tmp_path / "model.onnx"))
    (got,) = run_model(model, {"ids": np.array([-1, 4, 10**9, -(10**9)])})
    np.testing.assert_array_equal(got, [4, 4, 4, 0])


def test_several_outputs_in_their_order(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", [2, 6])
    names = [g.op("Relu", x), g.op("Neg", x), g.op("Softmax", x)]
    g.output(*reversed(names))
    agrees(g, tmp_path)


def test_scalar_output(tmp_path: Path) -> None:
    g = Graph()
    g.output(g.op("ReduceSum", g.input("x", [2, 6]), keepdims=0))
    agrees(g, tmp_path)


def test_integer_and_bool_outputs(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", [2, 6])
    g.output(g.op("ArgMax", x, axis=1), dtype=INT64)
    g.output(g.op("Greater", x, g.weight(np.float32(0.2))), dtype=TensorProto.BOOL)
    agrees(g, tmp_path)


def test_shape_as_output(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", [2, 6])
    g.output(g.op("Relu", x))
    g.output(g.op("Shape", x), dtype=INT64)
    agrees(g, tmp_path)


def test_shape_as_output_when_nothing_is_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lepton_tvm.frontend.prepare.fold_constants", lambda _: 0)
    g = Graph()
    g.output(g.op("Shape", g.input("x", [2, 6])), dtype=INT64)
    agrees(g, tmp_path)


def test_output_that_is_an_input(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", [2, 3])
    g.output(g.op("Relu", x), x)
    agrees(g, tmp_path)


def test_output_that_is_a_weight(tmp_path: Path) -> None:
    g = Graph()
    g.output(g.op("Relu", g.input("x", [2, 3])), g.normal(2, 2))
    agrees(g, tmp_path)


def test_output_that_is_used_inside(tmp_path: Path) -> None:
    g = Graph()
    y = g.op("Conv", g.input("x", [1, 2, 5, 5]), g.normal(3, 2, 3, 3))
    g.output(y, g.op("Relu", y))
    agrees(g, tmp_path)


def test_unused_inputs_and_weights(tmp_path: Path) -> None:
    g = Graph()
    g.input("unused", [3])
    x = g.input("x", [2, 3])
    g.normal(4, 4)
    g.output(g.op("Relu", x))
    path = g.save(tmp_path / "model.onnx")
    model = load_model(path)
    assert [info.name for info in model.inputs] == ["unused", "x"]
    assert_agrees(model, path)


def test_unnamed_nodes_and_odd_names(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("0/in put.1", [2, 3])
    g.output(g.op("Relu", g.op("Neg", x)))
    g.outputs[0].name = g.nodes[-1].output[0] = "out:0 größe"
    for node in g.nodes:
        node.name = ""
    path = g.save(tmp_path / "model.onnx")
    model = load_model(path)
    assert model.inputs[0].name == "0/in put.1"
    assert model.outputs[0].name == "out:0 größe"
    assert_agrees(model, path)


def test_branch_with_a_constant_condition(tmp_path: Path) -> None:
    """`If` on a property of the shape, as torch's `squeeze` is exported."""
    g = Graph()
    x = g.input("x", [2, 1, 3])
    size = g.op("Gather", g.op("Shape", x), g.weight(np.array([1])))
    condition = g.op("Equal", size, g.weight(np.array([1])))
    axes = numpy_helper.from_array(np.array([1]), "axes")
    squeezed = helper.make_tensor_value_info("y", FLOAT, None)
    then = helper.make_graph(
        [
            helper.make_node("Constant", [], ["axes"], value=axes),
            helper.make_node("Squeeze", [x, "axes"], ["y"]),
        ],
        "then",
        [],
        [squeezed],
    )
    other = helper.make_graph([helper.make_node("Identity", [x], ["y"])], "else", [], [squeezed])
    g.output(g.op("Relu", g.op("If", condition, then_branch=then, else_branch=other)))
    agrees(g, tmp_path)


def test_folding_does_not_fill_the_memory(tmp_path: Path) -> None:
    """A few bytes of graph that stand for 4 TB of constants."""
    g = Graph()
    x = g.input("x", [1])
    zeros = g.op("ConstantOfShape", g.weight(np.array([10**6, 10**6])))
    g.output(g.op("Add", x, g.op("ReduceMax", zeros, keepdims=0)))
    assert load_model(g.save(tmp_path / "model.onnx")).outputs[0].shape == (1,)


def test_functions_of_the_model_are_expanded(tmp_path: Path) -> None:
    g = Graph()
    g.output(g.op("Twice", g.input("x", [2, 3]), domain="local"))
    model = g.model({"local": 1})
    body = helper.make_node("Add", ["a", "a"], ["b"])
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], [body], opsets))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert_agrees(load_model(path), path)


def test_quantized_in_qdq_form(tmp_path: Path) -> None:
    g = Graph(13)
    scale, zero = g.weight(np.float32(0.05)), g.weight(np.uint8(128))
    x = g.op("QuantizeLinear", g.input("x", [1, 4, 8, 8]), scale, zero)
    x = g.op("DequantizeLinear", x, scale, zero)
    w = g.weight(g.rng.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8))
    scales = g.weight(g.rng.uniform(0.01, 0.02, 6).astype(np.float32))
    w = g.op("DequantizeLinear", w, scales, g.weight(np.zeros(6, np.int8)), axis=0)
    g.output(g.op("Conv", x, w, pads=[1, 1, 1, 1]))
    agrees(g, tmp_path)


def test_clip_bounds_that_are_nan_are_no_bounds(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", [2, 3])
    g.output(g.op("Clip", x, g.weight(np.float32(np.nan)), g.weight(np.float32(0.5))))
    path = g.save(tmp_path / "model.onnx")
    values = np.array([[-9, -1, 0], [0.4, 1, 9]], np.float32)
    (got,) = run_model(load_model(path), {"x": values})
    np.testing.assert_array_equal(got, np.minimum(values, 0.5))


def test_clip_is_one_op(tmp_path: Path) -> None:
    module = load_model(conv_net().save(tmp_path / "model.onnx")).module
    text = module["main"].script()
    assert text.count("R.clip(") == 1
    assert "isnan" not in text
    assert len(module.get_global_vars()) == 1


def test_the_name_is_the_file_s_or_the_caller_s(tmp_path: Path) -> None:
    path = conv_net().save(tmp_path / "tiny.v2.onnx")
    assert load_model(path).name == "tiny.v2"
    assert load_model(str(path), name="mine").name == "mine"


def test_the_same_graph_with_and_without_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tvm_ffi

    path = conv_net().save(tmp_path / "model.onnx")
    with_it = load_model(path).module
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert tvm_ffi.structural_equal(load_model(path).module, with_it)


def test_a_failing_simplifier_is_survived_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxslim

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no idea")

    monkeypatch.setattr(onnxslim, "slim", fail)
    path = conv_net().save(tmp_path / "model.onnx")
    model = load_model(path)
    notes = model.report[0].reports[0]["notes"]
    assert any("onnxslim failed (RuntimeError: no idea)" in note for note in notes)
    assert_agrees(model, path)
