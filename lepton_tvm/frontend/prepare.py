"""From the graph of a file to one that the importer takes: a list of steps, run in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from lepton_tvm.errors import ModelError
from lepton_tvm.frontend.explicit_padding import make_padding_explicit
from lepton_tvm.frontend.fold import fold_constants
from lepton_tvm.frontend.graph_checks import (
    NEWEST_TESTED_OPSET,
    check_graph,
    check_text,
    check_weights,
    opset_of,
)
from lepton_tvm.frontend.input_shapes import fix_input_shapes, user_inputs
from lepton_tvm.frontend.operators import UnsupportedModelError, node_label, unsupported_nodes
from lepton_tvm.frontend.slimming import slim

if TYPE_CHECKING:
    import onnx

__all__ = ["PREPARE", "Facts"]


@dataclass
class Facts:
    """What was asked for, and what the steps find out about the graph on the way.

    `path` is for messages, `shapes` what the caller fixed, `known` the operators that have a
    converter. `labels` says for each tensor what people call the node that makes it.
    """

    path: str
    shapes: Mapping[str, tuple[int, ...]]
    known: frozenset[str]
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    opset: int = 0
    folded: int = 0
    simplified: str = ""

    @property
    def notes(self) -> list[str]:
        """What the report of the import says."""
        told = [f"opset {self.opset}", f"{self.folded} constant nodes folded", self.simplified]
        if self.opset > NEWEST_TESTED_OPSET:
            newest = NEWEST_TESTED_OPSET
            told.append(f"opset {self.opset} is newer than {newest}, the newest one tested")
        return told


Step: TypeAlias = "Callable[[onnx.ModelProto, Facts], onnx.ModelProto]"


def _check_names(proto: onnx.ModelProto, facts: Facts) -> onnx.ModelProto:
    check_text(proto, facts.path)
    return proto


def _inline_functions(proto: onnx.ModelProto, facts: Facts) -> onnx.ModelProto:
    """Replace calls of the model's own functions (torch's dynamo exporter writes them) by nodes."""
    if not proto.functions:
        return proto
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(proto)
    except Exception as error:  # the inliner raises what its C++ raises
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"cannot import '{facts.path}': its functions do not expand: {first}"
        ) from None


def _refuse_unsupported(proto: onnx.ModelProto, facts: Facts) -> onnx.ModelProto:
    """Name all nodes that cannot be converted, in one error."""
    nodes = unsupported_nodes(proto, facts.known)
    if nodes:
        raise UnsupportedModelError(facts.path, nodes)
    return proto


def _check_graph(proto: onnx.ModelProto, facts: Facts) -> onnx.ModelProto:
    check_graph(proto, facts.path)
    facts.opset = opset_of(proto)
    check_weights(proto, facts.path)
    return proto


def _fix_inputs(proto: onnx.ModelProto, facts: Facts) -> onnx.ModelProto:
    """Make every input shape static, and leave what a caller feeds as the only inputs."""
    fix_input_shapes(proto, facts.shapes, facts.path)
    inputs = list(user_inputs(proto.graph))
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return proto


def _note_names(proto: onnx.ModelProto, facts: Facts) -> onnx.ModelProto:
    """Note the names that people know, before anything is renamed."""
    facts.inputs = [value.name for value in proto.graph.input]
    facts.outputs = [value.name for value in proto.graph.output]
    facts.labels = {name: node_label(node) for node in proto.graph.node for name in node.output}
    return proto


def _fold_constants(proto: onnx.ModelProto, facts: Facts) -> onnx.ModelProto:
    facts.folded += fold_constants(proto)
    return proto


def _explicit_padding(proto: onnx.ModelProto, facts: Facts) -> onnx.ModelProto:
    make_padding_explicit(proto)
    return proto


def _simplify(proto: onnx.ModelProto, facts: Facts) -> onnx.ModelProto:
    slimmed, facts.simplified = slim(proto)
    return slimmed


def _restore_names(proto: onnx.ModelProto, facts: Facts) -> onnx.ModelProto:
    """Give nodes that the simplifier renamed the names their outputs were made under."""
    known = set(facts.labels.values())
    for node in proto.graph.node:
        if node.name not in known and node.output:
            node.name = facts.labels.get(node.output[0], node.name)
    return proto


#: Graph in, graph out, in this order. A step may edit the graph that it gets.
PREPARE: tuple[Step, ...] = (
    _check_names,
    _inline_functions,
    _refuse_unsupported,  # what no step can help
    _check_graph,
    _fix_inputs,
    _note_names,
    _fold_constants,  # shapes are static now, and with them what exporters compute from them
    _explicit_padding,  # before the simplifier, which overlooks the axes of Pad
    _simplify,
    _restore_names,
    _fold_constants,  # again: what the simplifier's fusions made constant
    _explicit_padding,  # again: for the nodes that it fused
    _refuse_unsupported,  # again: for what it wrote, and for control flow that did not fold away
)
