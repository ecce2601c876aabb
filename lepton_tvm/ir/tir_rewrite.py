"""Walks over loop nests: TVM's own mutators are not open to Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx

__all__ = ["map_children", "map_statements", "mentions", "substitute"]

_BINARY = (
    tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod, tirx.Min,
    tirx.Max, tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.And, tirx.Or,
)  # fmt: skip


def map_statements(stmt: Any, change: Callable[[Any], Any]) -> Any:
    """`stmt` with `change` applied to the statements directly inside it."""
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([change(s) for s in stmt.seq], stmt.span)
    if isinstance(stmt, tirx.For):
        return tirx.For(
            stmt.loop_var, stmt.min, stmt.extent, stmt.kind, change(stmt.body),
            stmt.thread_binding, stmt.annotations, stmt.step, stmt.span,
        )  # fmt: skip
    if isinstance(stmt, tirx.AttrStmt):
        return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, change(stmt.body), stmt.span)
    if isinstance(stmt, tirx.IfThenElse):
        other = None if stmt.else_case is None else change(stmt.else_case)
        return tirx.IfThenElse(stmt.condition, change(stmt.then_case), other, stmt.span)
    if isinstance(stmt, tirx.While):
        return tirx.While(stmt.condition, change(stmt.body), stmt.span)
    return stmt


def map_children(expr: Any, change: Callable[[Any], Any]) -> Any:
    """`expr` with `change` applied to its operands; leaves are returned as they are."""
    if isinstance(expr, _BINARY):
        return type(expr)(change(expr.a), change(expr.b))
    if isinstance(expr, tirx.Cast):
        return tirx.Cast(str(expr.ty.dtype), change(expr.value))
    if isinstance(expr, tirx.Not):
        return tirx.Not(change(expr.a))
    if isinstance(expr, tirx.Select):
        return tirx.Select(
            change(expr.condition), change(expr.true_value), change(expr.false_value)
        )
    if isinstance(expr, tirx.Ramp):
        return tirx.Ramp(change(expr.base), change(expr.stride), expr.lanes)
    if isinstance(expr, tirx.Broadcast):
        return tirx.Broadcast(change(expr.value), expr.lanes)
    if isinstance(expr, tirx.Let):
        return tirx.Let(expr.var, change(expr.value), change(expr.body))
    if isinstance(expr, tvm.ir.TensorLoad):
        return tirx.BufferLoad(expr.source, [change(i) for i in expr.indices])
    if isinstance(expr, tvm.ir.Call):
        return tvm.ir.Call(
            expr.op, [change(a) for a in expr.args], expr.attrs, expr.ty_args, ret_ty=expr.ty
        )
    return expr


def mentions(expr: Any, var: Any) -> bool:
    """Whether `var` occurs in `expr`."""
    if expr.same_as(var):
        return True
    found = False

    def look(child: Any) -> Any:
        nonlocal found
        found = found or mentions(child, var)
        return child

    map_children(expr, look)
    return found


def substitute(expr: Any, var: Any, value: Any) -> Any:
    """`expr` with `value` in place of `var`."""
    if expr.same_as(var):
        return value
    return map_children(expr, lambda child: substitute(child, var, value))
