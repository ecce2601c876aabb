"""`If` with a constant condition: the nodes of the branch that is taken, in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_tvm.frontend.constants import constants_to_initializers, copied

if TYPE_CHECKING:
    import onnx

__all__ = ["inlined_nodes", "taken_branch"]


def taken_branch(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> onnx.GraphProto | None:
    """The branch of an `If` node whose condition is constant; None for every other node."""
    from onnx import numpy_helper

    if node.op_type != "If" or node.input[0] not in constants:
        return None
    taken = bool(numpy_helper.to_array(constants[node.input[0]]).reshape(-1)[0])
    name = "then_branch" if taken else "else_branch"
    return next((a.g for a in node.attribute if a.name == name), None)


def inlined_nodes(
    node: onnx.NodeProto, branch: onnx.GraphProto, graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """The nodes of a branch under names of their own, giving the outputs of the `If` node."""
    import onnx

    prefix = f"{node.output[0]}/"
    names = {t.name: prefix + t.name for t in branch.initializer}
    names.update({o: prefix + o for inner in branch.node for o in inner.output if o})
    for tensor in branch.initializer:
        made = graph.initializer.add()
        made.CopyFrom(tensor)
        made.name = names[tensor.name]
    nodes = []
    for inner in branch.node:
        made_node = copied(inner)
        _rename(made_node, names)
        nodes.append(made_node)
    for inner_output, outer in zip(branch.output, node.output, strict=True):
        source = names.get(inner_output.name, inner_output.name)
        nodes.append(onnx.helper.make_node("Identity", [source], [outer], f"{node.name}/{outer}"))
    holder = onnx.GraphProto()
    holder.node.extend(nodes)
    constants_to_initializers(holder)
    graph.initializer.extend(holder.initializer)
    return list(holder.node)


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    for field in (node.input, node.output):
        field[:] = [names.get(name, name) for name in field]
    for attribute in node.attribute:
        if not attribute.HasField("g"):
            continue
        for inner in attribute.g.node:
            _rename(inner, names)
        for output in attribute.g.output:
            output.name = names.get(output.name, output.name)
