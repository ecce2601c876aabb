"""Tails of vector loops as masked loads and stores.

A loop over lanes whose body stands under a bound (`if j < 116`) is taken apart into scalars by
TVM's VectorizeLoop. Here such a loop becomes one vector operation whose loads and stores are
LLVM's masked ones: a single instruction each with AVX-512, AVX2 (32 bits), and correct everywhere.
"""

from __future__ import annotations

import contextlib
from typing import Any

import tvm
import tvm_ffi
from tvm import sym, tirx
from tvm.script import tirx as T

from lepton_tvm.ir.tir_rewrite import map_children, map_statements, mentions, substitute

__all__ = ["masked_vectors"]

_IF_THEN_ELSE = "prim.if_then_else"


class _NotHere(Exception):
    """This loop has a form that the rewrite does not handle; it stays as it is."""


@tvm.transform.module_pass(opt_level=0, name="lepton.masked_vectors")
def masked_vectors(mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
    """Rewrite guarded vector loops over flat buffers; runs right before VectorizeLoop.

    Before:  for j in vectorized(16): if k*16 + j < 116: y[k*16 + j] = f(x[k*16 + j])
    After:   if k*16 + 15 < 116: (the loop without its bound)
             else if k*16 < 116: masked_store(y + k*16, f(masked_load(x + k*16, m)), m)
    In a value, `if_then_else(condition on j, read, other)` becomes a select of masked loads. Loads
    that are in bounds for every lane stay plain ones. Does not handle: loads that are neither
    contiguous nor the same for all lanes, bounds other than `<`; those loops stay as they are.
    """
    mod = mod.clone()
    for gvar, func in list(mod.functions.items()):
        if isinstance(func, tirx.PrimFunc):
            mod[gvar] = func.with_body(_visit(func.body, sym.Analyzer()))
    return mod


def _visit(stmt: Any, analyzer: Any) -> Any:
    if isinstance(stmt, tirx.For):
        analyzer.bind(stmt.loop_var, tvm.ir.Range.from_min_extent(stmt.min, stmt.extent))
        if stmt.kind == tirx.ForKind.VECTORIZED:
            return _vector_loop(stmt, analyzer)
    return map_statements(stmt, lambda s: _visit(s, analyzer))


def _vector_loop(loop: Any, analyzer: Any) -> Any:
    bounds: list[Any] = []
    scalar: list[Any] = []
    stores = loop.body
    if isinstance(stores, tirx.IfThenElse) and stores.else_case is None:
        for part in _conjuncts(stores.condition):
            (bounds if mentions(part, loop.loop_var) else scalar).append(part)
        stores = stores.then_case
    try:
        body = _masked(loop, stores, bounds, analyzer)
    except _NotHere:
        return loop
    for part in scalar:
        body = tirx.IfThenElse(part, body, None)
    return body


def _masked(loop: Any, stores: Any, bounds: list[Any], analyzer: Any) -> Any:
    """`stores` under `bounds`, for all lanes of `loop` at once."""
    selects: list[Any] = []
    plain = [_without_guards(s, loop.loop_var, selects) for s in _stores(stores)]
    plain = [_simpler(s, bounds, analyzer) for s in plain]
    if not bounds and not selects:
        raise _NotHere
    lanes = int(loop.extent)
    masks, vectors = _vectorized(loop, [*bounds, *selects], plain)
    outer = masks[: len(bounds)]
    guards = masks[len(bounds) :]
    writer = _Masked(lanes, guards, analyzer)
    made = _sequence([writer.store(v, outer) for v in vectors])
    if not bounds:
        return made
    if selects:
        full: Any = _sequence([writer.store(v, []) for v in vectors])
    else:
        full = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, stores)
    made = tirx.IfThenElse(_at(bounds, loop.loop_var, 0), made, None)
    return tirx.IfThenElse(_at(bounds, loop.loop_var, lanes - 1), full, made)


def _stores(stmt: Any) -> list[Any]:
    stores = list(stmt.seq) if isinstance(stmt, tirx.SeqStmt) else [stmt]
    if not all(isinstance(s, tirx.BufferStore) for s in stores):
        raise _NotHere
    return stores


def _conjuncts(condition: Any) -> list[Any]:
    if isinstance(condition, tirx.And):
        return [*_conjuncts(condition.a), *_conjuncts(condition.b)]
    return [condition]


def _at(bounds: list[Any], lane: Any, value: int) -> Any:
    """Whether all bounds hold at one lane. They are of the form `... + lane < limit`: what holds
    at the last lane holds at all, what fails at the first fails at all."""
    parts = []
    for bound in bounds:
        if not isinstance(bound, tirx.LT) or mentions(bound.b, lane):
            raise _NotHere
        first, second, here = (_with_lane(bound.a, lane, v) for v in (0, 1, value))
        step = sym.Analyzer().simplify(second - first)
        if not isinstance(step, tirx.IntImm) or int(step) < 0:
            raise _NotHere
        parts.append(here < bound.b)
    return tirx.all(*parts) if len(parts) > 1 else parts[0]


def _with_lane(expr: Any, lane: Any, value: int) -> Any:
    return substitute(expr, lane, tirx.const(value, str(lane.ty.dtype)))


def _without_guards(store: Any, lane: Any, selects: list[Any]) -> Any:
    """`store` with selects in place of `if_then_else` over bounds that depend on the lane."""

    def visit(expr: Any) -> Any:
        guarded = (
            isinstance(expr, tvm.ir.Call)
            and getattr(expr.op, "name", "") == _IF_THEN_ELSE
            and mentions(expr.args[0], lane)
        )
        if not guarded:
            return map_children(expr, visit)
        condition, inside, outside = expr.args
        selects.append(condition)
        return tirx.Select(condition, visit(inside), visit(outside))

    return tirx.BufferStore(store.buffer, visit(store.value), list(store.indices))


def _simpler(store: Any, bounds: list[Any], analyzer: Any) -> Any:
    """`store` with indices simplified by what `bounds` say: (k*16 + j) // 85 is 0 below 85."""
    with contextlib.ExitStack() as known:
        for bound in bounds:
            known.enter_context(analyzer.constraint_scope(bound))

        def visit(expr: Any) -> Any:
            if isinstance(expr, tvm.ir.TensorLoad):
                return tirx.BufferLoad(expr.source, [analyzer.simplify(i) for i in expr.indices])
            return map_children(expr, visit)

        indices = [analyzer.simplify(i) for i in store.indices]
        return tirx.BufferStore(store.buffer, visit(store.value), indices)


def _vectorized(loop: Any, conditions: list[Any], stores: list[Any]) -> tuple[list[Any], list[Any]]:
    """The conditions and stores with vectors in place of the lane, as TVM's own pass makes them."""
    mask = tirx.decl_buffer((int(loop.extent),), "bool", "mask")
    body = [tirx.BufferStore(mask, c, [loop.loop_var]) for c in conditions]
    whole = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, _sequence([*body, *stores]))
    module = tvm.IRModule({"main": tirx.PrimFunc([], whole)})
    made = tirx.transform.VectorizeLoop(True)(module)["main"].body
    found = list(made.seq) if isinstance(made, tirx.SeqStmt) else [made]
    if len(found) != len(conditions) + len(stores):
        raise _NotHere
    if not all(isinstance(s, tirx.BufferStore) for s in found):
        raise _NotHere
    masks = [s.value for s in found[: len(conditions)]]
    return masks, found[len(conditions) :]


class _Masked:
    """Writes masked loads and stores of vectors of `lanes`; `guards` are the selects' masks."""

    def __init__(self, lanes: int, guards: list[Any], analyzer: Any) -> None:
        self._lanes = lanes
        self._guards = guards
        self._analyzer = analyzer

    def store(self, store: Any, masks: list[Any]) -> Any:
        """`store` for the lanes where all `masks` hold."""
        value = self._value(store.value, masks)
        base = self._base(store.indices)
        if not masks:
            return tirx.BufferStore(store.buffer, value, list(store.indices))
        place = tirx.address_of(tirx.BufferLoad(store.buffer, [base]))
        held = _held_as(str(store.buffer.dtype))
        if held is not None:
            value = T.reinterpret(f"{held}x{self._lanes}", value)
        return tirx.Evaluate(
            T.call_llvm_intrin("void", "llvm.masked.store", value, place, _all(masks))
        )

    def _value(self, expr: Any, masks: list[Any]) -> Any:
        if isinstance(expr, tirx.Select) and self._is_guard(expr.condition):
            inside = self._value(expr.true_value, [*masks, expr.condition])
            outside = self._value(expr.false_value, [*masks, tirx.Not(expr.condition)])
            return tirx.Select(expr.condition, inside, outside)
        if isinstance(expr, tvm.ir.TensorLoad):
            return self._load(expr, masks)
        return map_children(expr, lambda e: self._value(e, masks))

    def _load(self, load: Any, masks: list[Any]) -> Any:
        index = load.indices[-1]
        if _lanes(index) == 1:
            return load
        base = self._base(load.indices)
        if not masks or self._in_bounds(load.source, base):
            return load
        element = str(load.source.dtype).removeprefix("T.")
        held = _held_as(element)
        zero = tirx.Broadcast(tirx.const(0, held or element), self._lanes)
        place = tirx.address_of(tirx.BufferLoad(load.source, [base]))
        read = T.call_llvm_intrin(
            f"{held or element}x{self._lanes}", "llvm.masked.load", place, _all(masks), zero
        )
        return read if held is None else T.reinterpret(f"{element}x{self._lanes}", read)

    def _base(self, indices: Any) -> Any:
        """Where a contiguous vector starts."""
        index = indices[-1]
        contiguous = isinstance(index, tirx.Ramp) and int(index.stride) == 1
        if len(indices) != 1 or not contiguous or int(index.lanes) != self._lanes:
            raise _NotHere
        return index.base

    def _in_bounds(self, buffer: Any, base: Any) -> bool:
        size = int(buffer.shape[0]) - self._lanes
        known = self._analyzer.const_int_bound(base)
        first, last = int(known.min_value), int(known.max_value)
        return first >= 0 and last <= size

    def _is_guard(self, condition: Any) -> bool:
        return any(bool(tvm_ffi.structural_equal(condition, g)) for g in self._guards)


def _held_as(dtype: str) -> str | None:
    """The integers that stand for a type which later passes replace, else None."""
    name = dtype.removeprefix("T.")
    if name == "bool":
        raise _NotHere
    return {"bfloat16": "uint16", "float16": "uint16"}.get(name)


def _sequence(stmts: list[Any]) -> Any:
    return stmts[0] if len(stmts) == 1 else tirx.SeqStmt(stmts)


def _lanes(expr: Any) -> int:
    return int(tvm.DataType(str(expr.ty.dtype)).lanes)


def _all(masks: list[Any]) -> Any:
    made = masks[0]
    for mask in masks[1:]:
        made = tirx.And(made, mask)
    return made
