"""How the remaining Relax ops become loop nests, where TVM's own way is slow or inexact."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx, topi

from lepton_tvm.ir.graph import Expr, const_array, dtype_of, scalar_of, shape_of
from lepton_tvm.kernels import rows
from lepton_tvm.passes.lower.legalize import legalize_bfloat16

__all__ = ["LEGALIZATIONS"]

Legalization = Callable[[relax.BlockBuilder, Expr], Expr]


def _unary(function: Callable[[te.Tensor], te.Tensor], name: str) -> Legalization:
    def legalize(bb: relax.BlockBuilder, call: Expr) -> Expr:
        return bb.call_te(function, call.args[0], primfunc_name_hint=name)

    return legalize


def _float_only(op: str, function: Callable[[te.Tensor], te.Tensor], name: str) -> Legalization:
    """One call in float32, which `expand_math` makes a polynomial; TVM's lowering otherwise."""
    fast = _unary(function, name)

    def legalize(bb: relax.BlockBuilder, call: Expr) -> Expr:
        if dtype_of(call.args[0]) == "float32":
            return fast(bb, call)
        return tvm.ir.Op.get(op).get_attr("FLegalize")(bb, call)

    return legalize


@functools.cache
def _keep_rounding_in_vectors() -> None:
    # TVM would take loops with it apart, and LLVM then makes vectors half as wide of them
    tvm.ir.register_op_attr("tirx.nearbyint", "TVectorizable", True)


def _rounded(value: Any) -> Any:
    """Half to even."""
    _keep_rounding_in_vectors()
    return tirx.nearbyint(value)


def _nearbyint(x: te.Tensor) -> te.Tensor:
    return te.compute(x.shape, lambda *i: _rounded(x[i]), name="round")


def _softmax(bb: relax.BlockBuilder, call: Expr) -> Expr:
    data = call.args[0]
    if dtype_of(data) != "float32":
        return tvm.ir.Op.get("relax.nn.softmax").get_attr("FLegalize")(bb, call)
    axis = int(call.attrs.axis)
    if _is_last(data, [axis]):
        return bb.call_te(rows.softmax, data, primfunc_name_hint="softmax")
    return bb.call_te(lambda x: topi.nn.softmax(x, axis), data, primfunc_name_hint="softmax")


def _log_softmax(bb: relax.BlockBuilder, call: Expr) -> Expr:
    data = call.args[0]
    if dtype_of(data) != "float32" or not _is_last(data, [int(call.attrs.axis)]):
        return tvm.ir.Op.get("relax.nn.log_softmax").get_attr("FLegalize")(bb, call)
    return bb.call_te(rows.log_softmax, data, primfunc_name_hint="log_softmax")


def _layer_norm(bb: relax.BlockBuilder, call: Expr) -> Expr:
    data, gamma, beta = call.args
    attrs = call.attrs
    known = dtype_of(data) == "float32" and bool(attrs.center) and bool(attrs.scale)
    if not known or not _is_last(data, [int(a) for a in attrs.axes]):
        return tvm.ir.Op.get("relax.nn.layer_norm").get_attr("FLegalize")(bb, call)
    epsilon = float(attrs.epsilon)
    return bb.call_te(
        lambda x, g, b: rows.layer_norm(x, g, b, epsilon),
        data, gamma, beta, primfunc_name_hint="layer_norm",
    )  # fmt: skip


def _is_last(data: Expr, axes: list[int]) -> bool:
    """Whether `axes` is the last axis alone, and there are more than one."""
    rank = len(shape_of(data))
    return rank > 1 and [axis % rank for axis in axes] == [rank - 1]


def _power(bb: relax.BlockBuilder, call: Expr) -> Expr:
    if scalar_of(call.args[1]) == 2.0:
        return bb.call_te(topi.multiply, call.args[0], call.args[0], primfunc_name_hint="square")
    return tvm.ir.Op.get("relax.power").get_attr("FLegalize")(bb, call)


def _quantize(bb: relax.BlockBuilder, call: Expr) -> Expr:
    """nearbyint(x / scale) + zero point, clipped, for one scale per tensor."""
    scale, zero = scalar_of(call.args[1]), scalar_of(call.args[2])
    if scale is None or zero is None:
        return tvm.ir.Op.get("relax.quantize").get_attr("FLegalize")(bb, call)
    out = str(call.attrs.out_dtype)
    limits = np.iinfo(out)
    inverse = tirx.const(float(np.float32(1) / np.float32(scale)), "float32")
    low, high = (tirx.const(float(v - zero), "float32") for v in (limits.min, limits.max))

    def kernel(x: te.Tensor) -> te.Tensor:
        def value(*i: Any) -> Any:
            steps = _rounded(x[i] * inverse)
            kept = tirx.max(tirx.min(steps, high), low).astype("int32")
            return (kept + int(zero)).astype(out)

        return te.compute(x.shape, value, name="quantize")

    return bb.call_te(kernel, call.args[0], primfunc_name_hint="quantize")


def _dequantize(bb: relax.BlockBuilder, call: Expr) -> Expr:
    """(q - zero point) * scale for one scale per tensor."""
    scale, zero = scalar_of(call.args[1]), scalar_of(call.args[2])
    if scale is None or zero is None or const_array(call.args[0]) is not None:
        return tvm.ir.Op.get("relax.dequantize").get_attr("FLegalize")(bb, call)
    factor = tirx.const(float(np.float32(scale)), "float32")

    def kernel(q: te.Tensor) -> te.Tensor:
        def value(*i: Any) -> Any:
            return (q[i].astype("int32") - int(zero)).astype("float32") * factor

        return te.compute(q.shape, value, name="dequantize")

    return bb.call_te(kernel, call.args[0], primfunc_name_hint="dequantize")


def _mean(bb: relax.BlockBuilder, call: Expr) -> Expr:
    """Sum times the reciprocal of the count: a multiplication instead of a division."""
    shape = shape_of(call.args[0])
    axes = call.attrs.axis
    axis = list(range(len(shape))) if axes is None else [int(a) for a in axes]
    if dtype_of(call.args[0]) == "bfloat16" and legalize_bfloat16.has_unit():
        return legalize_bfloat16.mean(bb, call)
    if dtype_of(call.args[0]) != "float32":
        return tvm.ir.Op.get("relax.mean").get_attr("FLegalize")(bb, call)
    count = int(np.prod([shape[a] for a in axis]))
    inverse = tirx.const(1.0 / count, "float32")
    keep = bool(call.attrs.keepdims)

    def kernel(x: te.Tensor) -> te.Tensor:
        total = topi.sum(x, axis, keep)
        return te.compute(total.shape, lambda *i: total[i] * inverse, name="mean")

    return bb.call_te(kernel, call.args[0], primfunc_name_hint="mean")


def _astype(bb: relax.BlockBuilder, call: Expr) -> Expr:
    """To and from bfloat16 by the target's instructions where it has them."""
    types = (dtype_of(call.args[0]), dtype_of(call))
    if legalize_bfloat16.has_unit() and set(types) == {"float32", "bfloat16"}:
        return legalize_bfloat16.cast(bb, call, types[1] == "bfloat16")
    return tvm.ir.Op.get("relax.astype").get_attr("FLegalize")(bb, call)


def _by_type(op: str, bfloat16: Legalization) -> Legalization:
    """A lowering of its own for bfloat16 on targets that have it; TVM's for every other type."""

    def legalize(bb: relax.BlockBuilder, call: Expr) -> Expr:
        if dtype_of(call.args[0]) == "bfloat16" and legalize_bfloat16.has_unit():
            return bfloat16(bb, call)
        return tvm.ir.Op.get(op).get_attr("FLegalize")(bb, call)

    return legalize


#: Op name -> its lowering here; ops that are not listed take TVM's.
LEGALIZATIONS: dict[str, Legalization] = {
    "relax.astype": _astype,
    "relax.round": _unary(_nearbyint, "round"),
    "relax.exp": _float_only("relax.exp", topi.exp, "exp"),
    "relax.erf": _float_only("relax.erf", topi.erf, "erf"),
    "relax.tanh": _float_only("relax.tanh", topi.tanh, "tanh"),
    "relax.sigmoid": _float_only("relax.sigmoid", topi.sigmoid, "sigmoid"),
    "relax.nn.avg_pool2d": _by_type("relax.nn.avg_pool2d", legalize_bfloat16.average_pool),
    "relax.nn.max_pool2d": _by_type("relax.nn.max_pool2d", legalize_bfloat16.max_pool),
    "relax.nn.softmax": _softmax,
    "relax.nn.log_softmax": _log_softmax,
    "relax.nn.layer_norm": _layer_norm,
    "relax.power": _power,
    "relax.quantize": _quantize,
    "relax.dequantize": _dequantize,
    "relax.mean": _mean,
}
