"""Walks over loop nests: TVM's own mutators are not open to Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx

__all__ = ["children", "map_children", "map_statements", "mentions", "substitute"]

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


def children(expr: Any) -> list[Any]:
    """The operands of `expr`; a leaf has none."""
    if isinstance(expr, _BINARY):
        return [expr.a, expr.b]
    if isinstance(expr, tvm.ir.TensorLoad):
        return list(expr.indices)
    if isinstance(expr, tirx.Cast | tirx.Broadcast):
        return [expr.value]
    if isinstance(expr, tvm.ir.Call):
        return list(expr.args)
    if isinstance(expr, tirx.Not):
        return [expr.a]
    if isinstance(expr, tirx.Select):
        return [expr.condition, expr.true_value, expr.false_value]
    if isinstance(expr, tirx.Ramp):
        return [expr.base, expr.stride]
    if isinstance(expr, tirx.Let):
        return [expr.value, expr.body]
    return []


def map_children(expr: Any, change: Callable[[Any], Any]) -> Any:
    """`expr` with `change` applied to its operands; it is the same object where none changed."""
    old = children(expr)
    new = [change(child) for child in old]
    if all(a.same_as(b) for a, b in zip(old, new, strict=True)):
        return expr
    if isinstance(expr, tvm.ir.TensorLoad):
        return tirx.BufferLoad(expr.source, new)
    if isinstance(expr, tirx.Cast):
        return tirx.Cast(str(expr.ty.dtype), *new)
    if isinstance(expr, tirx.Ramp | tirx.Broadcast):
        return type(expr)(*new, expr.lanes)
    if isinstance(expr, tirx.Let):
        return tirx.Let(expr.var, *new)
    if isinstance(expr, tvm.ir.Call):
        return tvm.ir.Call(expr.op, new, expr.attrs, expr.ty_args, ret_ty=expr.ty)
    return type(expr)(*new)


def mentions(expr: Any, var: Any) -> bool:
    """Whether `var` occurs in `expr`."""
    return bool(expr.same_as(var)) or any(mentions(child, var) for child in children(expr))


def substitute(expr: Any, var: Any, value: Any) -> Any:
    """`expr` with `value` in place of `var`."""
    if expr.same_as(var):
        return value
    return map_children(expr, lambda child: substitute(child, var, value))
