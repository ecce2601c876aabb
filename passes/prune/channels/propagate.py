"""Walk a function and label every channel: one visible dict of rules, op name -> rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax

from lepton_tvm.ir.graph import Expr, argument_vars, bindings_of, main_of, op_name, output_of
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

_ELEMENTWISE = (
    *("abs", "add", "astype", "ceil", "clip", "cos", "divide", "equal", "erf", "exp", "floor"),
    *("floor_divide", "greater", "greater_equal", "less", "less_equal", "log", "maximum"),
    *("minimum", "multiply", "negative", "not_equal", "power", "round", "rsqrt", "sigmoid"),
    *("sign", "sin", "sqrt", "square", "subtract", "tanh", "where", "nn.dropout", "nn.gelu"),
    *("nn.gelu_tanh", "nn.leakyrelu", "nn.relu", "nn.relu6", "nn.selu", "nn.silu", "nn.softplus"),
)
_RULES: dict[str, Rule] = {
    **{f"relax.{n}": compute.elementwise for n in _ELEMENTWISE},
    **{f"relax.nn.conv{d}d": compute.conv for d in (1, 2, 3)},
    **{f"relax.nn.conv{d}d_transpose": compute.conv for d in (1, 2, 3)},
    **{f"relax.nn.{k}_pool{d}d": compute.spatial for k in ("max", "avg") for d in (1, 2, 3)},
    **{f"relax.nn.adaptive_avg_pool{d}d": compute.spatial for d in (1, 2, 3)},
    **{f"relax.{n}": compute.reduce for n in ("mean", "sum", "max", "min", "prod", "variance")},
    **{f"relax.nn.{n}": compute.normalised for n in ("softmax", "log_softmax", "layer_norm")},
    **{f"relax.{n}": shape.reshape for n in ("reshape", "flatten", "squeeze", "expand_dims")},
    "relax.image.resize2d": compute.spatial,
    "relax.matmul": compute.matmul,
    "relax.nn.pad": shape.pad,
    "relax.nn.prelu": compute.prelu,
    "relax.permute_dims": shape.permute,
    "relax.concat": shape.concat,
    "relax.split": shape.split,
    "relax.strided_slice": shape.strided_slice,
}
