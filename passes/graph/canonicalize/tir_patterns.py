"""Recognise the few PrimFuncs that TVM's ONNX importer emits instead of Relax ops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import sym, tirx

from lepton_tvm.ir.graph import Expr, op_name, scalar_of, shape_of

__all__ = ["Padding", "match_bound", "match_padding"]

PAD_MODES = {
    "call_tir:pad": "constant",
    "call_tir:mirror_pad": "reflect",
    "call_tir:replicate_pad": "replicate",
}


@dataclass(frozen=True)
class Padding:
    """A padding op: its input, (before, after) per axis, the mode of `R.nn.pad`, and the value."""

    data: Expr
    widths: tuple[tuple[int, int], ...]
    mode: str
    value: float


def match_bound(mod: tvm.IRModule, call: Expr) -> tuple[Expr, float] | None:
    """(x, bound) of the importer's `maximum`/`minimum` with a constant scalar, or None."""
    if op_name(call) not in ("call_tir:maximum", "call_tir:minimum"):
        return None
    args = list(call.args[1].fields)
    if len(args) == 2:
        for x, bound in (args, args[::-1]):
            value = scalar_of(bound)
            if value is not None and shape_of(x) == shape_of(call):
                return x, value
        return None
    store = _only_store(mod[call.args[0]])
    if store is None or not isinstance(store.value, (tirx.Max, tirx.Min)):
        return None
    for side in (store.value.a, store.value.b):
        if isinstance(side, (tirx.FloatImm, tirx.IntImm)):
            return args[0], float(side.value)
    return None


def match_padding(mod: tvm.IRModule, call: Expr) -> Padding | None:
    """The padding that an imported `pad`, `mirror_pad` or `replicate_pad` does, or None."""
    mode = PAD_MODES.get(op_name(call))
    if mode is None or len(call.args[1].fields) != 1:
        return None
    data = call.args[1].fields[0]
    store = _only_store(mod[call.args[0]])
    if store is None:
        return None
    load, value = store.value, 0.0
    if mode == "constant" and _is_select(load):
        condition_value, load = load.args[2], load.args[1]
        if not isinstance(condition_value, (tirx.FloatImm, tirx.IntImm)):
            return None
        value = float(condition_value.value)
    if not isinstance(load, tvm.ir.TensorLoad):
        return None
    widths = []
    for size, padded, var, index in zip(
        shape_of(data), shape_of(call), store.indices, load.indices, strict=True
    ):
        before = _before(size, padded, var, index, mode)
        if before is None:
            return None
        widths.append((before, padded - size - before))
    if min(min(w) for w in widths) < 0:
        return None
    return Padding(data, tuple(widths), mode, value)


def _before(size: int, padded: int, var: Any, index: Any, mode: str) -> int | None:
    """How many elements stand before the input along one axis, read off the index expression."""
    if size == padded:
        return 0
    first = _at(index, var, 0)
    if first is None:
        return None
    if mode == "constant":
        return -first
    if mode == "reflect":
        return first
    if size == 1:
        return None
    zeros = [position for position in range(padded) if _at(index, var, position) == 0]
    return len(zeros) - 1


def _at(index: Any, var: Any, position: int) -> int | None:
    analyzer = sym.Analyzer()
    analyzer.bind(var, tirx.const(position, str(var.ty.dtype)))
    value = analyzer.simplify(index)
    return int(value.value) if isinstance(value, tirx.IntImm) else None


def _is_select(expr: Any) -> bool:
    return isinstance(expr, tvm.ir.Call) and getattr(expr.op, "name", "") == "prim.if_then_else"


def _only_store(func: tirx.PrimFunc) -> Any | None:
    """The one store of an elementwise PrimFunc: loops around blocks around a single store."""
    node: Any = func.body
    while not isinstance(node, tirx.BufferStore):
        node = getattr(node, "block", None) or getattr(node, "body", None)
        if node is None:
            return None
    return node
