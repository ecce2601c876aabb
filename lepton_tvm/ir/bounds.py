"""relu, clip, maximum and minimum with constants are one thing: bounds on a value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm
from tvm import relax, tirx

from lepton_tvm.ir.graph import Expr, constant, dtype_of, op_name, scalar_of, shape_of

__all__ = ["Bounds", "bounded", "bounds_of"]


@dataclass(frozen=True)
class Bounds:
    """`min(max(data, low), high)`; either bound may be infinite."""

    data: Expr
    low: float
    high: float


def bounds_of(call: Expr) -> Bounds | None:
    """The bounds that a relu, clip, maximum or minimum (with a scalar) sets, or None."""
    name = op_name(call)
    if name == "relax.nn.relu":
        return Bounds(call.args[0], 0.0, math.inf)
    if name == "relax.clip":
        if not all(isinstance(a, tirx.FloatImm | tirx.IntImm) for a in call.args[1:]):
            return None
        return Bounds(call.args[0], float(call.args[1].value), float(call.args[2].value))
    if name in ("relax.maximum", "relax.minimum"):
        for data, bound in (call.args, tuple(call.args)[::-1]):
            value = scalar_of(bound)
            if value is None or math.isnan(value) or shape_of(data) != shape_of(call):
                continue
            low, high = (value, math.inf) if name == "relax.maximum" else (-math.inf, value)
            return Bounds(data, low, high)
    return None


def bounded(bounds: Bounds) -> tvm.ir.Expr:
    """The one canonical expression for `bounds`: data itself, relu, maximum, minimum or clip.

    `relax.nn.relu` for [0, inf), `relax.maximum`/`relax.minimum` with a rank-0 constant on the
    right for other half-lines, `relax.clip` for a finite interval.
    """
    data, low, high = bounds.data, bounds.low, bounds.high
    dtype = dtype_of(data)
    if low == -math.inf and high == math.inf:
        return data
    if low == 0.0 and high == math.inf and dtype.startswith("float"):
        return relax.op.nn.relu(data)
    if high == math.inf:
        return relax.op.maximum(data, constant(low, dtype))
    if low == -math.inf:
        return relax.op.minimum(data, constant(high, dtype))
    if dtype.startswith("float"):
        return relax.op.clip(data, low, high)
    return relax.op.clip(data, int(low), int(high))
