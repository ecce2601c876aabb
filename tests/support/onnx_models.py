"""Small ONNX models made by hand, and ways to run them: ONNX Runtime, and what we make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lepton_tvm.compiler.pipeline import run
from lepton_tvm.model import Model

Array = NDArray[Any]

IR_OF_OPSET = {9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9}


class Graph:
    """Collects the nodes of a model in one operator set."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str] | None, dtype: int = 1) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def weight(self, value: Any, name: str | None = None) -> str:
        name = name or f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def normal(self, *shape: int, name: str | None = None) -> str:
        fan_in = max(1, int(np.prod(shape[1:])))
        values = self.rng.standard_normal(shape) * (2.0 / fan_in) ** 0.5
        return self.weight(values.astype(np.float32), name)

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attrs: Any) -> Any:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(
            kind, inputs, names, f"{kind.lower()}_{len(self.nodes)}", domain=domain, **attrs
        )
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def output(self, *names: str, dtype: int = 1) -> None:
        for name in names:
            self.outputs.append(helper.make_tensor_value_info(name, dtype, None))

    def model(self, domains: Mapping[str, int] | None = None) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(d, v) for d, v in (domains or {}).items()]
        ir_version = IR_OF_OPSET.get(self.opset, 10)
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)

    def save(self, path: Path, domains: Mapping[str, int] | None = None) -> Path:
        onnx.save(self.model(domains), path)
        return path


def conv_net(opset: int = 17, shape: Sequence[int | str] = (1, 3, 16, 16)) -> Graph:
    """Conv, batch norm, ReLU, depthwise conv, Clip, pools, flatten, Gemm, softmax."""
    g = Graph(opset)
    x = g.input("x", shape)
    x = g.op("Conv", x, g.normal(8, 3, 3, 3, name="w"), g.normal(8), pads=[1, 1, 1, 1])
    stats = [g.weight(g.rng.uniform(0.5, 1.5, 8).astype(np.float32)) for _ in range(4)]
    x = g.op("BatchNormalization", x, *stats)
    x = g.op("Relu", x)
    x = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = g.op("Conv", x, g.normal(8, 1, 3, 3), pads=[1, 1, 1, 1], group=8)
    x = g.op("Add", x, clip(g, y, 0.0, 6.0))
    x = g.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g.op("GlobalAveragePool", x)
    x = g.op("Flatten", x)
    x = g.op("Gemm", x, g.normal(5, 8), g.normal(5), transB=1)
    g.output(g.op("Softmax", x))
    return g


def clip(g: Graph, x: str, low: float, high: float) -> str:
    """`Clip` in the form of the graph's operator set: attributes before 11, inputs since."""
    if g.opset < 11:
        return str(g.op("Clip", x, min=low, max=high))
    bounds = [g.weight(np.float32(low)), g.weight(np.float32(high))]
    return str(g.op("Clip", x, *bounds))


def random_inputs(model: Model, seed: int = 1) -> dict[str, Array]:
    """Normal values for float inputs, small non-negative ones for integers, 0 and 1 for bool."""
    rng = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for info in model.inputs:
        if info.dtype.startswith("float"):
            made[info.name] = rng.standard_normal(info.shape).astype(info.dtype)
        else:
            made[info.name] = rng.integers(0, 2, info.shape).astype(info.dtype)
    return made


def run_reference(path: Path, feed: Mapping[str, Array]) -> list[Array]:
    """All outputs by ONNX Runtime, one thread, no rewriting of the graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))


def run_model(model: Model, feed: Mapping[str, Array]) -> list[Array]:
    """All outputs by the product's own pipeline: what it imports it must compile as well."""
    return run(model.module, [feed[info.name] for info in model.inputs])


def relative_error(got: Array, wanted: Array) -> float:
    """The largest difference, relative to the largest value that is wanted."""
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    scale = float(np.abs(wanted.astype(np.float64)).max(initial=0.0)) or 1.0
    return float(np.abs(got.astype(np.float64) - wanted).max(initial=0.0)) / scale


def assert_agrees(model: Model, path: Path, tolerance: float = 1e-4) -> None:
    """What we compute is what ONNX Runtime computes from the file, output by output."""
    feed = random_inputs(model)
    wanted = run_reference(path, feed)
    got = run_model(model, feed)
    assert len(got) == len(wanted) == len(model.outputs)
    for info, ours, theirs in zip(model.outputs, got, wanted, strict=True):
        assert info.shape == theirs.shape
        assert relative_error(ours, theirs) <= tolerance, info.name


FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
