"""Constant folding of an ONNX graph with static input shapes, with NumPy alone.

onnxslim folds with ONNX Runtime, which this package does not require; a model must import the same
with and without it. The evaluator is `onnx.reference`, the specification in NumPy.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_tvm.frontend.branches import inlined_nodes, taken_branch
from lepton_tvm.frontend.constants import constants_to_initializers, copied
from lepton_tvm.frontend.infer import TensorType, infer_types

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

__all__ = ["fold_constants"]

_KEPT = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Loop", "Scan", "If"}
)
"""Never evaluated: quantized weights stay quantized, control flow is handled apart."""

_MAX_GROWTH = 1 << 22
"""The most elements that folding may make where its inputs had fewer (16 MB of float32)."""

_GROWS = frozenset({"ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile"})
"""Operators that may make much out of little: evaluated only where the size is known before."""

_MAX_ROUNDS = 32


def fold_constants(model: onnx.ModelProto) -> int:
    """Evaluate in place all nodes of `model` that depend on constants and static shapes only.

    Returns the number of nodes removed. Afterwards no `Constant` node is left, `If` with a
    constant condition is replaced by its branch, and unused initializers are gone. A node that
    the evaluator cannot run is left as it is, for the importer to judge.
    """
    before = len(model.graph.node)
    constants_to_initializers(model.graph)
    for _ in range(_MAX_ROUNDS):
        if not _fold_once(model):
            break
    _drop_unused(model.graph)
    return before - len(model.graph.node)


def _fold_once(model: onnx.ModelProto) -> bool:
    """One sweep over the nodes in order; whether anything was removed."""
    from onnx import numpy_helper

    graph = model.graph
    types = infer_types(model)
    constants = {t.name: t for t in graph.initializer}
    kept: list[onnx.NodeProto] = []
    nodes = list(graph.node)
    for node in nodes:
        branch = taken_branch(node, constants)
        if branch is not None:
            kept.extend(inlined_nodes(node, branch, graph))
            continue
        values = _folded(node, constants, types, model)
        if values is None:
            kept.append(node)
            continue
        for name, value in zip(node.output, values, strict=False):
            if name:
                tensor = graph.initializer.add()
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, order="C"), name))
                constants[name] = tensor
    if len(kept) == len(nodes) and all(a is b for a, b in zip(kept, nodes, strict=True)):
        return False
    copies = [copied(node) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    return True


def _folded(
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    types: dict[str, TensorType],
    model: onnx.ModelProto,
) -> list[NDArray[Any]] | None:
    """The values of a node's outputs, or None where they are not constant."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _KEPT:
        return None
    if node.op_type in ("Shape", "Size"):
        return _shape_value(node, types)
    inputs = [name for name in node.input if name]
    if not inputs or any(name not in constants for name in inputs):
        return None
    if any(a.HasField("g") or a.name == "training_mode" for a in node.attribute):
        return None
    size = max(math.prod(constants[name].dims) for name in inputs)
    for name in node.output:
        shape = types[name].shape if name in types else None
        if shape is None and node.op_type in _GROWS:
            return None
        if shape is not None and math.prod(shape) > max(size, _MAX_GROWTH):
            return None
    return _evaluate(node, constants, model)


def _shape_value(node: onnx.NodeProto, types: dict[str, TensorType]) -> list[NDArray[Any]] | None:
    type_ = types.get(node.input[0])
    if type_ is None or type_.shape is None:
        return None
    if node.op_type == "Size":
        return [np.asarray(math.prod(type_.shape), dtype=np.int64)]
    ends = {a.name: a.i for a in node.attribute}
    part = slice(ends.get("start", 0), ends.get("end"))
    return [np.asarray(type_.shape[part], dtype=np.int64)]


def _evaluate(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], model: onnx.ModelProto
) -> list[NDArray[Any]] | None:
    import onnx
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    names = list(dict.fromkeys(name for name in node.input if name))
    outputs = [name for name in node.output if name]
    graph = onnx.helper.make_graph(
        [node],
        "fold",
        [onnx.helper.make_tensor_value_info(n, constants[n].data_type, None) for n in names],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    single = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    feed = {name: numpy_helper.to_array(constants[name]) for name in names}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(single).run(None, feed)
    except Exception:  # the evaluator raises what NumPy and its own code raise; folding is optional
        return None
    by_name = dict(zip(outputs, results, strict=True))
    values = [np.asarray(by_name[name]) if name else np.zeros(0) for name in node.output]
    return None if any(value.dtype == object for value in values) else values


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {output.name for output in graph.output}
    _collect_used(graph, used)
    unused = [i for i, tensor in enumerate(graph.initializer) if tensor.name not in used]
    for index in reversed(unused):
        del graph.initializer[index]


def _collect_used(graph: onnx.GraphProto, used: set[str]) -> None:
    for node in graph.node:
        used.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                used.update(output.name for output in attribute.g.output)
                _collect_used(attribute.g, used)
