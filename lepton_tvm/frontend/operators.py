"""Which operators can be imported, and the refusal that lists every node that cannot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_tvm.errors import ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["Unsupported", "UnsupportedModelError", "node_label", "unsupported_nodes"]

_RECURRENT = "recurrent layers have no converter yet"
_QLINEAR = "integer operators of the QLinear kind have no converter yet; export the model as QDQ"
_CONTROL = "control flow that depends on data cannot be compiled to a static graph"
_DYNAMIC = "the shape of its output is only known at run time"
_RANDOM = "it draws random numbers at run time"
_SEQUENCE = "sequences and optionals are not tensors of a static shape"

REASONS: Mapping[str, str] = {
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _RECURRENT),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "ConvInteger", "QLinearAdd"), _QLINEAR),
    **dict.fromkeys(("If", "Loop", "Scan"), _CONTROL),
    **dict.fromkeys(("NonZero", "Unique", "Compress", "NonMaxSuppression"), _DYNAMIC),
    **dict.fromkeys(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"),
        _RANDOM,
    ),
    "Multinomial": _RANDOM,
    "Attention": "fused attention has no converter yet; export with an opset below 23",
    **dict.fromkeys(
        (
            "Optional", "OptionalHasElement", "OptionalGetElement", "SequenceConstruct",
            "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceAt",
            "SequenceMap", "ConcatFromSequence", "SplitToSequence",
        ),
        _SEQUENCE,
    ),
}  # fmt: skip
"""Operators that are refused whatever the importer thinks of them, and why."""

MICROSOFT = frozenset({"Gelu", "FastGelu", "BiasGelu", "SkipLayerNormalization"})
"""Operators of domain com.microsoft (written by ONNX Runtime's optimizer) that can be imported."""


@dataclass(frozen=True)
class Unsupported:
    """A node that cannot be imported: its operator, its name (or its output's), the reason."""

    op: str
    node: str
    reason: str


class UnsupportedModelError(ModelError):
    """A model holds nodes that cannot be imported; `nodes` has all of them."""

    def __init__(self, path: str, nodes: Sequence[Unsupported]) -> None:
        self.nodes = tuple(nodes)
        groups: dict[tuple[str, str], list[str]] = {}
        for node in nodes:
            groups.setdefault((node.op, node.reason), []).append(node.node)
        count = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}"
        lines = [f"cannot import '{path}': {count} of it cannot be compiled"]
        for (op, reason), names in groups.items():
            shown = ", ".join(f"'{name}'" for name in names)
            lines.append(f"  {op} ({shown}): {reason}")
        super().__init__("\n".join(lines))


def node_label(node: onnx.NodeProto) -> str:
    """The name of a node; for an unnamed one, the name of its first output."""
    if node.name:
        return str(node.name)
    output = next((name for name in node.output if name), "")
    return f"unnamed, output {output}" if output else "unnamed"


def unsupported_nodes(model: onnx.ModelProto, known: Iterable[str]) -> list[Unsupported]:
    """Every node that no converter of `known` can import, with its reason.

    Nodes whose inputs are constants or shapes are left to constant folding. Runs before and after
    the graph is slimmed: `If` with a constant condition is gone by then.
    """
    import onnx

    newest = onnx.defs.onnx_opset_version()
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), newest)
    weights = {t.name for t in model.graph.initializer}
    return list(_check(model.graph.node, frozenset(known), weights, min(opset, newest)))


def _check(
    nodes: Iterable[onnx.NodeProto], known: frozenset[str], constants: set[str], opset: int
) -> Iterator[Unsupported]:
    for node in nodes:
        reason = _reason(node, known, opset)
        inputs = [name for name in node.input if name]
        foldable = node.op_type in ("Constant", "Shape", "Size") or (
            bool(inputs)
            and all(name in constants for name in inputs)
            and node.domain in ("", "ai.onnx")
            and node.op_type not in ("Loop", "Scan")
            and not _is_unknown(node, opset)
        )
        if foldable:
            constants.update(node.output)
            continue
        if node.op_type == "If" and node.input[0] in constants:
            continue
        if reason:
            op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            yield Unsupported(op, node_label(node), reason)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inner = constants | {t.name for t in attribute.g.initializer}
                yield from _check(attribute.g.node, known, inner, opset)


def _reason(node: onnx.NodeProto, known: frozenset[str], opset: int) -> str | None:
    if node.domain == "com.microsoft":
        return None if node.op_type in MICROSOFT else "this com.microsoft operator has no converter"
    if node.domain not in ("", "ai.onnx"):
        return f"custom domain '{node.domain}' has no converters"
    if _is_unknown(node, opset):
        return f"ONNX has no such operator in opset {opset}"
    if node.op_type in REASONS:
        return REASONS[node.op_type]
    if node.op_type in ("BatchNormalization", "Dropout") and _is_training(node):
        return "it is in training mode; export the model for inference (model.eval())"
    return None if node.op_type in known else "it has no converter yet"


def _is_unknown(node: onnx.NodeProto, opset: int) -> bool:
    import onnx

    try:
        onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return node.op_type not in ("Upsample", "Scatter")
    return False


def _is_training(node: onnx.NodeProto) -> bool:
    return any(a.name == "training_mode" and a.i for a in node.attribute)
