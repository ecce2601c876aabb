"""Rules for elementwise arithmetic with constants, bounds, and global pooling."""

from __future__ import annotations

import numpy as np
from tvm import relax

from lepton_tvm.ir.bounds import Bounds, bounded, bounds_of
from lepton_tvm.ir.graph import (
    Array,
    Expr,
    GraphBuilder,
    const_array,
    constant,
    dtype_of,
    is_constant,
    op_name,
    same_structure,
    scalar_of,
    shape_of,
)
from lepton_tvm.passes.graph.canonicalize.tir_patterns import match_bound
from lepton_tvm.passes.graph.linear_ops import LINEAR_OPS

__all__ = [
    "affine_from_batch_norm",
    "bound_from_primfunc",
    "constant_to_the_right",
    "divide_to_multiply",
    "drop_neutral",
    "fit_constant_rank",
    "global_pool_to_mean",
    "merge_bounds",
    "merge_constants",
    "power_to_multiply",
    "subtract_to_add",
]


def is_float(expr: Expr) -> bool:
    """True when the elements are floating point."""
    return "float" in dtype_of(expr)


def bound_from_primfunc(g: GraphBuilder, call: Expr) -> Expr | None:
    """The importer's `call_tir(maximum | minimum)` with a scalar -> a canonical bound."""
    found = match_bound(g.mod, call)
    if found is None:
        return None
    data, value = found
    if op_name(call) == "call_tir:maximum":
        return bounded(Bounds(data, value, np.inf))
    return bounded(Bounds(data, -np.inf, value))


def merge_bounds(g: GraphBuilder, call: Expr) -> Expr | None:
    """clip(relu(x)), minimum(maximum(x, a), b), ... -> one relu or clip."""
    outer = bounds_of(call)
    if outer is None:
        return None
    low, high = outer.low, outer.high
    data = outer.data
    inner = bounds_of(g.value(data)) if g.value(data) is not data else None
    if inner is not None:
        low, high = (min(max(v, outer.low), outer.high) for v in (inner.low, inner.high))
        data = inner.data
    made = bounded(Bounds(data, low, high))
    return None if same_structure(g.typed(made), call) else made


def constant_to_the_right(g: GraphBuilder, call: Expr) -> Expr | None:
    """add(c, x) -> add(x, c), and multiply alike."""
    left, right = call.args
    if not is_constant(left) or is_constant(right):
        return None
    return _like(call, right, left)


def subtract_to_add(g: GraphBuilder, call: Expr) -> Expr | None:
    """x - c -> x + (-c), exact in floating point."""
    array = const_array(call.args[1])
    if array is None or not is_float(call):
        return None
    return relax.op.add(call.args[0], constant(-array))


def divide_to_multiply(g: GraphBuilder, call: Expr) -> Expr | None:
    """x / c -> x * (1 / c): at most one and a half units in the last place away."""
    array = const_array(call.args[1])
    if array is None or not is_float(call):
        return None
    inverse = (1.0 / array.astype(np.float64)).astype(array.dtype)
    if not np.all(np.isfinite(inverse)) or np.any(np.abs(inverse) < np.finfo(array.dtype).tiny):
        return None
    return relax.op.multiply(call.args[0], constant(inverse))


def power_to_multiply(g: GraphBuilder, call: Expr) -> Expr | None:
    """x ** 2 -> x * x, x ** 0.5 -> sqrt(x), x ** 1 -> x."""
    exponent = scalar_of(call.args[1])
    x = call.args[0]
    if exponent is None or not is_float(call) or shape_of(x) != shape_of(call):
        return None
    if exponent == 2.0:
        return relax.op.multiply(x, x)
    if exponent == 0.5:
        return relax.op.sqrt(x)
    return x if exponent == 1.0 else None


def drop_neutral(g: GraphBuilder, call: Expr) -> Expr | None:
    """x + 0 and x * 1 -> x, where the shape stays."""
    array = const_array(call.args[1])
    if array is None or shape_of(call.args[0]) != shape_of(call):
        return None
    neutral = 0 if op_name(call) == "relax.add" else 1
    return call.args[0] if np.all(array == neutral) else None


def merge_constants(g: GraphBuilder, call: Expr) -> Expr | None:
    """(x + a) + b -> x + (a + b), (x * a) * b -> x * (a * b), when nobody else reads the inner."""
    outer = const_array(call.args[1])
    inner_call = g.single_use(call.args[0])
    if outer is None or inner_call is None or op_name(inner_call) != op_name(call):
        return None
    inner = const_array(inner_call.args[1])
    if inner is None or not is_float(call):
        return None
    wide = (inner.astype(np.float64), outer.astype(np.float64))
    merged: Array = wide[0] + wide[1] if op_name(call) == "relax.add" else wide[0] * wide[1]
    if merged.size > max(inner.size, outer.size):
        return None
    return _like(call, inner_call.args[0], constant(merged.astype(outer.dtype)))


def fit_constant_rank(g: GraphBuilder, call: Expr) -> Expr | None:
    """Constants of binary ops: one element -> rank 0, beside a rank-4 tensor -> rank 4.

    The bias of a convolution or matmul keeps its one value per channel, also of one channel.
    """
    data, const = call.args
    array = const_array(const)
    if array is None or array.ndim == 0 or is_constant(data):
        return None
    is_bias = op_name(call) == "relax.add" and op_name(g.value(data)) in LINEAR_OPS
    if array.size == 1 and shape_of(data) == shape_of(call) and not is_bias:
        return _like(call, data, constant(array.reshape(())))
    if len(shape_of(data)) == 4 and array.ndim < 4 and (array.size > 1 or is_bias):
        return _like(call, data, constant(array.reshape((1,) * (4 - array.ndim) + array.shape)))
    return None


def global_pool_to_mean(g: GraphBuilder, call: Expr) -> Expr | None:
    """An average pool over the whole picture -> mean over H and W with kept dims."""
    attrs = call.attrs
    shape = shape_of(call.args[0])
    axes = [attrs.layout.index("H"), attrs.layout.index("W")]
    out = shape_of(call)
    if op_name(call) == "relax.nn.avg_pool2d":
        size = [int(s) for s in attrs.pool_size]
        whole = size == [shape[a] for a in axes] and not any(int(p) for p in attrs.padding)
        if not whole or any(int(d) != 1 for d in attrs.dilation):
            return None
    if any(out[a] != 1 for a in axes):
        return None
    return relax.op.mean(call.args[0], axis=axes, keepdims=True)


def affine_from_batch_norm(g: GraphBuilder, call: Expr) -> Expr | None:
    """Inference batch_norm with constant statistics -> x * scale + shift."""
    gamma, beta, mean, var = (const_array(a) for a in call.args[1:5])
    if gamma is None or beta is None or mean is None or var is None:
        return None
    scale = np.ones_like(gamma, np.float64) if not call.attrs.scale else gamma.astype(np.float64)
    scale = scale / np.sqrt(var.astype(np.float64) + float(call.attrs.epsilon))
    shift = (beta if call.attrs.center else np.zeros_like(beta)) - mean * scale
    data = call.args[0]
    shape = [1] * len(shape_of(data))
    shape[int(call.attrs.axis)] = -1
    dtype = dtype_of(data)
    scaled = relax.op.multiply(data, constant(scale.reshape(shape).astype(dtype)))
    return relax.op.add(scaled, constant(shift.reshape(shape).astype(dtype)))


def _like(call: Expr, left: Expr, right: Expr) -> Expr:
    made = {"relax.add": relax.op.add, "relax.multiply": relax.op.multiply}
    return made[op_name(call)](left, right)
