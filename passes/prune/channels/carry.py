"""What the rules share: labels of arguments, and the rule of ops that have none."""

from __future__ import annotations

from typing import Any, cast

from tvm import relax

from lepton_tvm.ir.graph import Expr, argument_vars, op_name, shape_of, short_op
from lepton_tvm.passes.prune.channels.labels import Flow, Labels

__all__ = ["fix_all", "ints", "is_tensor", "labels_of", "rigid", "unknown"]


def ints(values: Any) -> tuple[int, ...]:
    """Python integers of an attribute, a ShapeExpr or a tuple of PrimValues."""
    fields = getattr(values, "fields", values)
    return tuple(int(getattr(v, "value", v)) for v in fields)


def rigid(expr: Expr) -> Labels:
    """Labels of a tensor no axis of which can shrink."""
    return (None,) * len(shape_of(expr))


def labels_of(flow: Flow, expr: Expr) -> Labels:
    """Labels of a tensor argument: those of its variable, else rigid."""
    return cast(Labels, flow.values[expr]) if isinstance(expr, relax.Var) else rigid(expr)


def is_tensor(expr: Expr) -> bool:
    """True for an argument that is a tensor, not a shape, tuple or plain number."""
    return isinstance(expr.ty, relax.TensorType)


def fix_all(flow: Flow, var: Expr, reason: str) -> None:
    """Keep every channel of `var`, also inside a tuple."""
    for axis in flow.values[var]:
        for one in axis if isinstance(axis, tuple) else (axis,):
            flow.atoms.fix(one, reason)


def unknown(flow: Flow, var: Expr, call: Expr) -> Labels:
    """The rule of every op without one: all channels that reach it stay.

    (The labels of a tuple value come back as a tuple of them, as in `Flow.values`.)
    """
    what = op_name(call) or short_op(call)
    for arg in argument_vars(call):
        fix_all(flow, arg, f"reaches '{var.name}' ({what}), which is not known to channel pruning")
    if isinstance(call.ty, relax.TupleType):
        return cast(Labels, tuple((None,) * len(t.shape) for t in call.ty.fields))
    return rigid(call) if is_tensor(call) else ()
