"""Models of one node, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save_node(name: str, op: str = "Relu", *, dims: Any = (1, 4), weight: Any = None) -> Path:
    """A model of one node, `x` -> `y`, with a weight where one is given."""
    inputs, tensors = ["x"], []
    if weight is not None:
        tensors.append(numpy_helper.from_array(np.asarray(weight, np.float32), "w"))
        inputs.append("w")
    node = helper.make_node(op, inputs, ["y"], name="the_node")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, name)
    return Path(name)
