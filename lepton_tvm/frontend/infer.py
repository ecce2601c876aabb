"""Shape inference of an ONNX graph that does not copy its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["TensorType", "infer_types"]

_SMALL = 1024
"""Tensors of up to so many elements are kept for inference: shapes are computed from them."""


@dataclass(frozen=True)
class TensorType:
    """What is known of a value: its element type (ONNX number) and its shape, if static."""

    elem_type: int
    shape: tuple[int, ...] | None


def infer_types(model: onnx.ModelProto) -> dict[str, TensorType]:
    """The types of all values of `model`, by name; values that cannot be inferred are left out.

    ONNX's inference serializes its model twice; large weights are first replaced by inputs of the
    same type, so that the memory taken does not depend on them.
    """
    import onnx

    skeleton = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = "skeleton"
    graph.node.extend(model.graph.node)
    graph.output.extend(onnx.ValueInfoProto(name=o.name) for o in model.graph.output)
    weights = {t.name for t in model.graph.initializer}
    graph.input.extend(v for v in model.graph.input if v.name not in weights)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            graph.initializer.append(tensor)
        else:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(info)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        inferred = skeleton
    types = {t.name: TensorType(t.data_type, tuple(t.dims)) for t in model.graph.initializer}
    for field in (inferred.graph.value_info, inferred.graph.input, inferred.graph.output):
        for value in field:
            if value.type.HasField("tensor_type"):
                types[value.name] = _type_of(value)
    return types


def _type_of(value: onnx.ValueInfoProto) -> TensorType:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None)
    dims = tensor.shape.dim
    if any(d.WhichOneof("value") != "dim_value" or d.dim_value < 0 for d in dims):
        return TensorType(tensor.elem_type, None)
    return TensorType(tensor.elem_type, tuple(int(d.dim_value) for d in dims))
