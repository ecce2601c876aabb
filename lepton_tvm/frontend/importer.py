"""TVM's ONNX importer with every failure kept and attributed to its node."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from lepton_tvm.errors import ModelError
from lepton_tvm.frontend.converters import CONVERTERS
from lepton_tvm.frontend.graph_checks import opset_of
from lepton_tvm.frontend.infer import TensorType, infer_types
from lepton_tvm.frontend.operators import Unsupported, UnsupportedModelError, node_label
from lepton_tvm.frontend.slimming import quiet

if TYPE_CHECKING:
    import onnx

__all__ = ["import_graph", "known_operators"]


def known_operators() -> frozenset[str]:
    """The names of all ONNX operators for which there is a converter, TVM's or ours."""
    return frozenset(onnx_frontend._get_convert_map()) | frozenset(CONVERTERS)


def import_graph(model: onnx.ModelProto, path: str) -> tvm.IRModule:
    """Convert a graph of static input shapes to a Relax module with constants bound.

    A node whose converter fails is replaced by a value of the inferred type, so that one run finds
    the failures of all nodes; they are raised together as an `UnsupportedModelError`.
    """
    failures: list[Unsupported] = []
    importer = _Importer(infer_types(model), failures)
    try:
        with quiet():
            module = importer.from_onnx(model.graph, opset_of(model))
    except Exception as error:  # TVM raises what its C++ raises
        raise ModelError(f"cannot import '{path}': {_reason(error)}") from error
    if failures:
        raise UnsupportedModelError(path, failures)
    return module


class _Importer(onnx_frontend.ONNXGraphImporter):
    """Walks the nodes one by one; see `import_graph`."""

    def __init__(self, types: Mapping[str, TensorType], failures: list[Unsupported]) -> None:
        super().__init__({}, "float32", keep_params_in_input=False, sanitize=True)
        self._types = types
        self._failures = failures
        self._lost: set[str] = set()
        self._used: set[str] = set()

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        """Done before, for all nodes and with reasons, by `unsupported_nodes`."""

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        self._used = {output.name for output in graph.output}
        self._used.update(name for node in graph.node for name in node.input)
        for node in graph.node:
            if self._lost.intersection(node.input):
                self._stand_in(node)
                continue
            try:
                super()._construct_nodes(SimpleNamespace(node=[node]))
                self._check_outputs(node)
            except Exception as error:  # a converter may fail in any way, in Python or in C++
                reason = _reason(error)
                self._failures.append(Unsupported(node.op_type, node_label(node), reason))
                self._stand_in(node)
        for output in graph.output:
            value = None if self._failures else self._nodes[output.name]
            self._nodes[output.name] = self._as_tensor(value)

    def _convert_operator(
        self, op_name: str, inputs: list[Any], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        converter = CONVERTERS.get(op_name)
        if converter is not None:
            converted = converter(self.bb, inputs, attrs, opset)
            if converted is not None:
                return self.bb.normalize(converted)
        return super()._convert_operator(op_name, inputs, attrs, opset)

    def _check_outputs(self, node: onnx.NodeProto) -> None:
        """Outputs must be static, and of the shape and type that ONNX itself infers.

        The second is the net under TVM's converters: one that reads a node wrongly nearly always
        gives another shape.
        """
        for name in node.output:
            value = self._nodes.get(name) if name in self._used else None
            if not isinstance(value, tvm.ir.Expr):
                continue
            type_ = self.bb.normalize(value).ty
            if not _is_static(type_):
                raise ModelError("the shape of its output is only known at run time")
            known = self._types.get(name)
            if known is None or not isinstance(type_, relax.TensorType):
                continue
            found = tuple(int(dim) for dim in type_.shape.values)
            if known.shape is not None and found != known.shape:
                raise ModelError(
                    f"its converter gives shape {list(found)} for '{name}', "
                    f"ONNX says {list(known.shape)}"
                )
            dtype = onnx_frontend.get_type(known.elem_type) if known.elem_type else type_.dtype
            if str(type_.dtype) != str(dtype):
                raise ModelError(
                    f"its converter gives {type_.dtype} for '{name}', ONNX says {dtype}"
                )

    def _stand_in(self, node: onnx.NodeProto) -> None:
        """Give the outputs of a node that failed values of the right type, or mark them lost."""
        for name in node.output:
            known = self._types.get(name)
            if known is None or known.shape is None:
                self._lost.add(name)
                continue
            dtype = onnx_frontend.get_type(known.elem_type)
            type_ = relax.TensorType(known.shape, dtype)
            self._nodes[name] = relax.Var(f"lost_{len(self._failures)}", type_)

    def _as_tensor(self, value: relax.Expr | None) -> relax.Expr:
        """An output: a computed shape as the tensor that ONNX means; nothing, after a failure."""
        if value is None:
            return relax.const(0)
        if isinstance(value, relax.ShapeExpr):
            return relax.const(np.array([int(dim) for dim in value.values]), "int64")
        return value


def _is_static(type_: Any) -> bool:
    if isinstance(type_, relax.ShapeType):
        return type_.values is not None and all(_is_number(dim) for dim in type_.values)
    if isinstance(type_, relax.TensorType):
        shape = type_.shape
        return isinstance(shape, relax.ShapeExpr) and all(_is_number(d) for d in shape.values)
    return True


def _is_number(dim: Any) -> bool:
    return isinstance(dim, (int, tvm.tirx.IntImm))


def _reason(error: BaseException) -> str:
    """The message of an error without TVM's traceback, frames and check text."""
    if isinstance(error, KeyError):
        return f"its converter needs {error}, which the node does not have"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"(File \"|Traceback|\d+: |at )", line)]
    if not lines:
        return f"its converter failed with {type(error).__name__}"
    text = lines[-1] if lines[0].startswith("Check failed") and len(lines) > 1 else lines[0]
    text = re.sub(r"^.*Check failed: .*? is false: ?", "", text)
    if text.startswith("Missing outputs"):
        return "its converter gives the first output only, and the others are used"
    text = re.sub(r"T\.int64\((-?\d+)\)", r"\1", text)
    return text or f"its converter failed with {type(error).__name__}"
