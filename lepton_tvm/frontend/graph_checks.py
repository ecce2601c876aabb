"""Checks of an ONNX graph that the file format allows but no compiler can use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_tvm.errors import ModelError

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

__all__ = [
    "NEWEST_TESTED_OPSET",
    "OLDEST_OPSET",
    "check_graph",
    "check_text",
    "check_weights",
    "opset_of",
]

OLDEST_OPSET = 9
NEWEST_TESTED_OPSET = 21

_SELECTS = frozenset({"Clip", "Max", "Min", "Where", "Pad", "ConstantOfShape", "Expand"})
"""Operators to which an infinite constant is a bound or a mask, not a broken weight."""


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operator set that a model is written in; 0 where none is."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def check_graph(model: onnx.ModelProto, path: str) -> None:
    """Refuse a model whose operator set, names or structure are not valid."""
    import onnx

    opset = opset_of(model)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ModelError(
            f"cannot import '{path}': opset {opset}; opsets {OLDEST_OPSET} to "
            f"{NEWEST_TESTED_OPSET} are supported and up to {newest} are tried; "
            "export the model again with one of these"
        )
    _check_names(model.graph, path)
    # The checker wants a shape on every input and output; files without them run everywhere else.
    types = [v.type for v in (*model.graph.input, *model.graph.output)]
    tensors = [t.tensor_type for t in types if t.HasField("tensor_type")]
    bare = [tensor for tensor in tensors if not tensor.HasField("shape")]
    for type_ in bare:
        type_.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        raise ModelError(
            f"cannot import '{path}': the graph is not valid ONNX: {_first_lines(str(error))}"
        ) from None
    finally:
        for type_ in bare:
            type_.ClearField("shape")


def check_text(model: onnx.ModelProto, path: str) -> None:
    """Refuse names that are not text, and element types that do not exist: a damaged file."""
    import onnx

    graph = model.graph
    names = [*(v.name for v in (*graph.input, *graph.output, *graph.initializer))]
    for node in graph.node:
        names += (node.op_type, node.name, node.domain, *node.input, *node.output)
        names += (a.name for a in node.attribute)
    broken = next((name for name in names if not isinstance(name, str)), None)
    if broken is not None:
        raise ModelError(
            f"cannot import '{path}': the name {broken!r:.80} is not UTF-8 text; "
            "the file is damaged"
        )
    types = set(onnx.TensorProto.DataType.values())
    for value in (*graph.input, *graph.output):
        elem_type = value.type.tensor_type.elem_type
        if elem_type not in types:
            raise ModelError(
                f"cannot import '{path}': '{value.name}' has the unknown element type {elem_type}"
            )
        if elem_type == onnx.TensorProto.STRING:
            raise ModelError(f"cannot import '{path}': '{value.name}' holds text, not numbers")


def _check_names(graph: onnx.GraphProto, path: str) -> None:
    for what, names in (
        ("initializer", [t.name for t in graph.initializer]),
        ("input", [v.name for v in graph.input]),
        ("output", [v.name for v in graph.output]),
        ("value", [name for node in graph.node for name in node.output if name]),
    ):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ModelError(
                f"cannot import '{path}': {what} name '{twice[0]}' is used more than once"
            )
    for output in graph.output:
        if not output.type.HasField("tensor_type") and output.type.WhichOneof("value"):
            raise ModelError(
                f"cannot import '{path}': output '{output.name}' is a "
                f"{output.type.WhichOneof('value')}; only tensors can be returned"
            )


def _first_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2]).removesuffix("Context:").strip()


def check_weights(model: onnx.ModelProto, path: str) -> None:
    """Refuse weights that hold NaN or infinity, naming every one of them.

    Infinity is let through where it is a bound or a mask (`Clip`, `Where`, a mask of 0 and -inf):
    there it is what the exporter meant.
    """
    consumers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, set()).add(node.op_type)
    bad = []
    for name, values in _float_constants(model.graph):
        problem = _non_finite(values, consumers.get(name, set()))
        if problem:
            bad.append(f"'{name}' {list(values.shape)} has {problem}")
    if bad:
        shown = "; ".join(bad[:20]) + (f"; and {len(bad) - 20} more" if len(bad) > 20 else "")
        raise ModelError(
            f"cannot import '{path}': weights must be finite numbers, but {shown}; "
            "the model is damaged or its training diverged"
        )


def _float_constants(graph: onnx.GraphProto) -> Iterator[tuple[str, NDArray[Any]]]:
    from onnx import TensorProto, numpy_helper

    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    for tensor in graph.initializer:
        if tensor.data_type in floats:
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type != "Constant":
            continue
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type in floats:
                yield node.output[0], numpy_helper.to_array(attribute.t)
            if attribute.name in ("value_float", "value_floats"):
                values = attribute.floats or [attribute.f]
                yield node.output[0], np.asarray(values, dtype=np.float32)


def _non_finite(values: NDArray[Any], consumers: set[str]) -> str | None:
    """What is wrong with the values of one constant, if anything."""
    if values.size == 0:
        return None
    if values.dtype.itemsize < 4 or values.dtype.kind not in "f":
        values = values.astype(np.float32)
    # One reduction instead of two masks: a sum is finite exactly when no NaN or infinity is in it,
    # or when it overflows, and then the masks tell.
    with np.errstate(all="ignore"):
        if np.isfinite(np.sum(values, dtype=np.float64)):
            return None
    nan = int(np.isnan(values).sum())
    if nan and not (consumers and consumers <= {"Clip"}):
        return f"{nan} NaN value{'s' if nan > 1 else ''}"
    inf = int(np.isinf(values).sum())
    is_mask = bool(np.all(np.isneginf(values) | (values == 0)))
    if not inf or is_mask or (consumers and consumers <= _SELECTS):
        return None
    return f"{inf} infinite value{'s' if inf > 1 else ''}"
