"""Walk a function and label every channel: one rule for each word of the table of operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax

from lepton_tvm.ir.graph import Expr, argument_vars, bindings_of, main_of, op_name, output_of
from lepton_tvm.ir.ops import OPS
from lepton_tvm.passes.prune.channels import rules_compute as compute
from lepton_tvm.passes.prune.channels import rules_shape as shape
from lepton_tvm.passes.prune.channels.carry import fix_all, labels_of, rigid, unknown
from lepton_tvm.passes.prune.channels.labels import Flow

__all__ = ["propagate"]


def propagate(mod: tvm.IRModule) -> Flow:
    """Label every tensor of `main`; ops without a rule keep all channels that reach them."""
    flow = Flow()
    func = main_of(mod)
    for param in func.params:
        flow.values[param] = rigid(param)
    for binding in bindings_of(func):
        flow.values[binding.var] = _label_value(flow, binding.var, binding.value)
    for var in argument_vars(output_of(func)):
        fix_all(flow, var, f"reaches the graph output '{var.name}'")
    return flow


def _label_value(flow: Flow, var: Expr, value: Expr) -> Any:
    if isinstance(value, relax.Var):
        return flow.values[value]
    if isinstance(value, relax.Tuple):
        return tuple(labels_of(flow, f) for f in value.fields)
    if isinstance(value, relax.TupleGetItem):
        return flow.values[value.tuple_value][value.index]
    rule = _RULES.get(op_name(value))
    return unknown(flow, var, value) if rule is None else rule(flow, var, value)


Rule = Callable[[Flow, Expr, Expr], Any]

# The words of the column `prune` of `ir/ops.py`.
_BY_WORD: dict[str, Rule] = {
    "concat": shape.concat,
    "conv": compute.conv,
    "elementwise": compute.elementwise,
    "matmul": compute.matmul,
    "normalised": compute.normalised,
    "pad": shape.pad,
    "permute": shape.permute,
    "prelu": compute.prelu,
    "reduction": compute.reduce,
    "reshape": shape.reshape,
    "spatial": compute.spatial,
    "split": shape.split,
    "strided_slice": shape.strided_slice,
}
_RULES: dict[str, Rule] = {op.name: _BY_WORD[op.prune] for op in OPS.values() if op.prune}
