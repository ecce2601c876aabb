"""What cannot be imported is refused by operator, node and reason, all of it at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from lepton_tvm.frontend import Unsupported, UnsupportedModelError, load_model
from tests.support.onnx_models import FLOAT, INT64, Graph


def refused(path: Path) -> UnsupportedModelError:
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(path)
    assert caught.value.exit_code == 2
    return caught.value


def test_all_nodes_at_once_with_their_reasons(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", [4, 1, 8])
    for name in ("first", "second"):
        g.nodes.append(
            helper.make_node(
                "LSTM",
                [x, g.normal(1, 32, 8), g.normal(1, 32, 8)],
                [f"{name}_y", f"{name}_h", f"{name}_c"],
                name,
                hidden_size=8,
            )
        )
    y = g.op("Add", "first_h", "second_c")
    g.nodes.append(helper.make_node("Fancy", [y], ["z"], "own", domain="com.example"))
    g.nodes.append(helper.make_node("Det", ["z"], ["d"]))
    g.output("d")
    error = refused(g.save(tmp_path / "model.onnx", {"com.example": 1}))
    recurrent = "recurrent layers have no converter yet"
    assert error.nodes == (
        Unsupported("LSTM", "first", recurrent),
        Unsupported("LSTM", "second", recurrent),
        Unsupported("com.example.Fancy", "own", "custom domain 'com.example' has no converters"),
        Unsupported("Det", "unnamed, output d", "it has no converter yet"),
    )
    assert str(error).splitlines() == [
        f"cannot import '{tmp_path / 'model.onnx'}': 4 nodes of it cannot be compiled",
        f"  LSTM ('first', 'second'): {recurrent}",
        "  com.example.Fancy ('own'): custom domain 'com.example' has no converters",
        "  Det ('unnamed, output d'): it has no converter yet",
    ]


def _unknown(g: Graph, x: str) -> str:
    return str(g.op("Froblicate", x))


def _random(g: Graph, x: str) -> str:
    return str(g.op("Add", x, g.op("RandomNormalLike", x)))


def _non_zero(g: Graph, x: str) -> str:
    return str(g.op("Cast", g.op("NonZero", x), to=FLOAT))


def _qlinear(g: Graph, x: str) -> str:
    scale, zero = g.weight(np.float32(0.1)), g.weight(np.uint8(3))
    q = g.op("QuantizeLinear", x, scale, zero)
    w = g.weight(np.ones((4, 4), np.uint8))
    y = g.op("QLinearMatMul", q, scale, zero, w, scale, zero, scale, zero)
    return str(g.op("DequantizeLinear", y, scale, zero))


def _branches(g: Graph, x: str) -> str:
    condition = g.op("Cast", g.op("ReduceSum", x, keepdims=0), to=TensorProto.BOOL)
    bodies = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        out = helper.make_tensor_value_info(f"{name}_y", FLOAT, [4, 4])
        node = helper.make_node(op, [x], [f"{name}_y"], name)
        bodies[name] = helper.make_graph([node], name, [], [out])
    return str(g.op("If", condition, **bodies))


def _training(g: Graph, x: str) -> str:
    ratio, mode = g.weight(np.float32(0.5)), g.weight(np.array(True))
    return str(g.op("Dropout", x, ratio, mode))


def _microsoft(g: Graph, x: str) -> str:
    return str(g.op("QLinearAdd", x, x, domain="com.microsoft"))


def _fractional_resize(g: Graph, x: str) -> str:
    x = g.op("Reshape", x, g.weight(np.array([1, 1, 4, 4], np.int64)))
    scales = g.weight(np.array([1, 1, 1.3, 1.3], np.float32))
    return str(g.op("Resize", x, "", scales, mode="linear"))


def _runtime_shape(g: Graph, x: str) -> str:
    target = g.op("Cast", g.op("Slice", x, *(g.weight(np.array([i])) for i in (0, 1))), to=INT64)
    return str(g.op("Reshape", x, g.op("Squeeze", target)))


def _outside(g: Graph, x: str) -> str:
    return str(g.op("Gather", x, g.weight(np.array([0, 4])), axis=1))


def _argmax_of_pool(g: Graph, x: str) -> str:
    x = g.op("Reshape", x, g.weight(np.array([1, 1, 4, 4])))
    return str(g.op("Cast", g.op("MaxPool", x, kernel_shape=[2, 2], outputs=2)[1], to=FLOAT))


REFUSALS: dict[str, tuple[Callable[[Graph, str], str], str, str]] = {
    "unknown": (_unknown, "Froblicate", "ONNX has no such operator in opset 17"),
    "random": (_random, "RandomNormalLike", "draws random numbers at run time"),
    "non-zero": (_non_zero, "NonZero", "the shape of its output is only known at run time"),
    "qlinear": (_qlinear, "QLinearMatMul", "export the model as QDQ"),
    "branches": (_branches, "If", "control flow that depends on data"),
    "training": (_training, "Dropout", "it is in training mode"),
    "microsoft": (_microsoft, "com.microsoft.QLinearAdd", "com.microsoft operator has no conv"),
    "resize": (_fractional_resize, "Resize", "Resize by 1.3 of 4 does not give a whole number"),
    "second-output": (_argmax_of_pool, "MaxPool", "gives the first output only"),
    "outside": (_outside, "Gather", "index 4 is outside of axis 1, which has 4 elements"),
    "runtime-shape": (_runtime_shape, "Reshape", "Reshape|run time|[Ss]hape"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_refusal(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build, op, reason = REFUSALS[kind]
    g = Graph()
    g.output(build(g, g.input("x", [4, 4])))
    error = refused(g.save(tmp_path / "model.onnx", {"com.microsoft": 1}))
    assert [node.op for node in error.nodes] == [op]
    assert re.search(reason, error.nodes[0].reason)
    assert "Traceback" not in str(error)
    assert capfd.readouterr().out == ""


def test_failures_of_converters_are_collected_too(tmp_path: Path) -> None:
    """Two nodes whose operators are known, but not in this form; the one between them is."""
    g = Graph()
    x = g.input("x", [1, 2, 6, 6])
    for scale in (1.3, 1.4):
        scales = g.weight(np.array([1, 1, scale, scale], np.float32))
        x = g.op("Relu", g.op("Resize", x, "", scales, mode="linear"))
    g.output(x)
    error = refused(g.save(tmp_path / "model.onnx"))
    assert [(node.op, node.node) for node in error.nodes] == [
        ("Resize", "resize_0"),
        ("Resize", "resize_2"),
    ]


def test_unsupported_in_a_subgraph_is_found(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", [4, 4])
    flag = g.input("flag", [], TensorProto.BOOL)
    out = helper.make_tensor_value_info("y", FLOAT, [])
    bodies = [
        helper.make_graph([helper.make_node(op, [x], ["y"], op.lower())], op, [], [out])
        for op in ("Det", "Neg")
    ]
    g.output(g.op("If", flag, then_branch=bodies[0], else_branch=bodies[1]))
    error = refused(g.save(tmp_path / "model.onnx"))
    assert [node.op for node in error.nodes] == ["If", "Det"]
