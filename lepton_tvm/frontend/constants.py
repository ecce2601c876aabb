"""`Constant` nodes as initializers: one form for the weights of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["constants_to_initializers", "copied"]


def copied(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy of a node that belongs to no graph."""
    made = type(node)()
    made.CopyFrom(node)
    return made


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Move the values of all `Constant` nodes of a graph to its initializers, in place."""
    kept = []
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            value = _constant_value(node)
            if value is not None:
                tensor = graph.initializer.add()
                tensor.CopyFrom(value)
                tensor.name = node.output[0]
                node.ClearField("attribute")
                continue
        kept.append(node)
    if len(kept) < len(graph.node):
        nodes = [copied(node) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    from onnx import numpy_helper

    attribute = node.attribute[0] if len(node.attribute) == 1 else None
    if attribute is None:
        return None
    if attribute.name == "value":
        tensor: onnx.TensorProto = attribute.t
        return tensor
    values: dict[str, Any] = {
        "value_float": lambda: np.float32(attribute.f),
        "value_floats": lambda: np.array(attribute.floats, dtype=np.float32),
        "value_int": lambda: np.int64(attribute.i),
        "value_ints": lambda: np.array(attribute.ints, dtype=np.int64),
    }
    make = values.get(attribute.name)
    return None if make is None else numpy_helper.from_array(np.asarray(make()))
