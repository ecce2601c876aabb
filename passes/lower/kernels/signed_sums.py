"""Sums of products whose uint8 factor was made signed, and the constant that they lack."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from lepton_tvm.ir.graph import Array, Expr, const_array, constant, consumers, main_of, op_name

__all__ = ["correction", "join_additions"]


def correction(weight: Array, offset: int) -> Array:
    """What `sum((q - offset) * w)` lacks to be `sum(q * w)`: int32 per output channel.

    `weight` is int8, its last axis the output channels. Every sum takes all taps, as padding is
    read like any other value, so the difference is a constant.
    """
    sums = weight.astype(np.int64).sum(axis=tuple(range(weight.ndim - 1)))
    made: Array = (offset * sums).astype(np.int32)
    return made


def join_additions(mod: tvm.IRModule) -> tvm.IRModule:
    """Add two int32 constants in a row at once: `(x + a) + b` -> `x + (a + b)`, modulo 2^32."""
    mod = mod.clone()
    joining = _Joining(mod)
    main = mod.get_global_var("main")
    joining.builder_.update_func(main, joining.visit_expr(mod[main]))
    return relax.transform.DeadCodeElimination()(joining.builder_.get())


@mutator
class _Joining(PyExprMutator):  # type: ignore[misc]
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._readers = consumers(main_of(mod))

    def visit_call_(self, call: Expr) -> Expr:
        once = self._read_once(call)
        call = super().visit_call_(call)
        second = _added(call)
        if second is None or not once:
            return call
        first = self.lookup_binding(call.args[0])
        inner = _added(first) if first is not None else None
        if inner is None:
            return call
        with np.errstate(over="ignore"):
            return relax.op.add(first.args[0], constant(inner + second))

    def _read_once(self, call: Expr) -> bool:
        source = call.args[0] if call.args else None
        return isinstance(source, relax.Var) and len(self._readers[source]) == 1


def _added(call: Expr) -> Array | None:
    """The int32 constant that `call` adds to a tensor of at least its rank."""
    if op_name(call) != "relax.add" or not isinstance(call.args[0], relax.Var):
        return None
    value = const_array(call.args[1])
    return value if value is not None and value.dtype == np.int32 else None
