"""Padding that an ONNX node implies, written out: `auto_pad`, `output_shape`, the axes of `Pad`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_tvm.frontend.infer import TensorType, infer_types

if TYPE_CHECKING:
    import onnx

__all__ = ["make_padding_explicit"]

_WINDOWED = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool"})


def make_padding_explicit(model: onnx.ModelProto) -> None:
    """Write implied padding out, in place: `auto_pad`, `output_shape`, and the axes of `Pad`.

    Padding by `auto_pad` then is part of the convolution instead of an op of its own, and
    onnxslim's fusion of `Pad` into `Conv`, which overlooks the axes, reads full pads.
    """
    wanted = _WINDOWED | {"ConvTranspose", "Pad"}
    nodes = [n for n in model.graph.node if n.op_type in wanted and _needs_work(n)]
    if not nodes:
        return
    types = infer_types(model)
    constants = {t.name: t for t in model.graph.initializer}
    for node in nodes:
        if node.op_type == "Pad":
            _expand_axes(node, types, constants, model.graph)
            continue
        attrs = {a.name: a for a in node.attribute}
        made = _explicit_pads(node, attrs, types)
        if made:
            _set_attributes(node, made)


def _needs_work(node: onnx.NodeProto) -> bool:
    if node.op_type == "Pad":
        return len(node.input) > 3 and bool(node.input[3])
    return any(
        (a.name == "auto_pad" and a.s != b"NOTSET") or a.name == "output_shape"
        for a in node.attribute
    )


def _set_attributes(node: onnx.NodeProto, made: Mapping[str, list[int]]) -> None:
    import onnx

    gone = {"auto_pad", "output_shape", *made}
    kept = [a for a in node.attribute if a.name not in gone]
    attributes = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
    del node.attribute[:]
    node.attribute.extend(attributes)
    node.attribute.extend(onnx.helper.make_attribute(name, made[name]) for name in made)


def _explicit_pads(
    node: onnx.NodeProto, attrs: Mapping[str, Any], types: Mapping[str, TensorType]
) -> dict[str, list[int]]:
    """The `pads` (all begins, then all ends) that `auto_pad` or `output_shape` stand for.

    A transposed convolution asked for more than it computes gets the rest as `output_padding`.
    """
    data = types.get(node.input[0])
    shape = data.shape if data else None
    kernel = _kernel(node, attrs, types)
    if shape is None or kernel is None or len(kernel) != len(shape) - 2:
        return {}
    size = np.array(shape[2:])
    ones = np.ones_like(size)
    stride = np.array(attrs["strides"].ints) if "strides" in attrs else ones
    dilation = np.array(attrs["dilations"].ints) if "dilations" in attrs else ones
    mode = attrs["auto_pad"].s if "auto_pad" in attrs else b"NOTSET"
    window = (kernel - 1) * dilation + 1
    if mode == b"VALID" and "output_shape" not in attrs:
        return {"pads": [0] * (2 * len(size))}
    made = {}
    if node.op_type == "ConvTranspose":
        extra = np.array(attrs["output_padding"].ints) if "output_padding" in attrs else 0 * ones
        out = np.array(attrs["output_shape"].ints) if "output_shape" in attrs else size * stride
        total = stride * (size - 1) + extra + window - out[-len(size) :]
        if (total < 0).any():
            made["output_padding"] = [int(p) for p in extra + np.maximum(-total, 0)]
            total = np.maximum(total, 0)
    else:
        out = -(-size // stride)
        total = np.maximum((out - 1) * stride + window - size, 0)
    small, large = total // 2, total - total // 2
    begin, end = (small, large) if mode == b"SAME_UPPER" else (large, small)
    made["pads"] = [int(p) for p in (*begin, *end)]
    return made


def _kernel(
    node: onnx.NodeProto, attrs: Mapping[str, Any], types: Mapping[str, TensorType]
) -> np.ndarray[Any, Any] | None:
    if "kernel_shape" in attrs:
        return np.array(attrs["kernel_shape"].ints)
    weight = types.get(node.input[1]) if len(node.input) > 1 else None
    if weight is None or weight.shape is None:
        return None
    return np.array(weight.shape[2:])


def _expand_axes(
    node: onnx.NodeProto,
    types: Mapping[str, TensorType],
    constants: Mapping[str, onnx.TensorProto],
    graph: onnx.GraphProto,
) -> None:
    from onnx import numpy_helper

    data = types.get(node.input[0])
    if data is None or data.shape is None:
        return
    if node.input[1] not in constants or node.input[3] not in constants:
        return
    rank = len(data.shape)
    axes = numpy_helper.to_array(constants[node.input[3]]).astype(np.int64)
    given = numpy_helper.to_array(constants[node.input[1]]).astype(np.int64)
    if len(given) != 2 * len(axes):
        return
    pads = np.zeros((2, rank), np.int64)
    pads[:, axes % rank] = given.reshape(2, -1)
    name = f"{node.output[0]}/pads"
    graph.initializer.append(numpy_helper.from_array(pads.reshape(-1), name))
    inputs = [node.input[0], name, node.input[2]]
    del node.input[:]
    node.input.extend(inputs if inputs[2] else inputs[:2])
