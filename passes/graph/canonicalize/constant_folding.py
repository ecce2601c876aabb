"""Evaluate Relax ops on constants with NumPy, without compiling anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tvm
from tvm import relax

from lepton_tvm.ir.graph import (
    Array,
    Expr,
    const_array,
    constant,
    dtype_of,
    is_constant,
    op_name,
    shape_of,
)

__all__ = ["EVALUATORS", "MAX_FOLDED_BYTES", "fold_constant_call"]

Evaluator: TypeAlias = Callable[[Expr, list[Array]], Array]

# Growing a small constant (broadcast, tile) past this size would only bloat the artifact.
MAX_FOLDED_BYTES = 64 * 2**20


def _reshape(call: Expr, args: list[Array]) -> Array:
    return args[0].reshape(shape_of(call))


def _permute(call: Expr, args: list[Array]) -> Array:
    axes = call.attrs.axes
    return args[0].transpose(None if axes is None else [int(a) for a in axes])


def _broadcast(call: Expr, args: list[Array]) -> Array:
    return np.broadcast_to(args[0], shape_of(call))


def _concat(call: Expr, args: list[Array]) -> Array:
    axis = 0 if call.attrs.axis is None else int(call.attrs.axis)
    return np.concatenate(args, axis=axis)


def _cast(call: Expr, args: list[Array]) -> Array:
    return args[0].astype(dtype_of(call))


def _slice(call: Expr, args: list[Array]) -> Array:
    axes, begin, end, *rest = [[int(v) for v in a.fields] for a in call.args[1:]]
    strides = rest[0] if rest else [1] * len(axes)
    if min(strides) < 1:
        raise NotImplementedError
    index: list[Any] = [slice(None)] * args[0].ndim
    for axis, b, e, s in zip(axes, begin, end, strides, strict=True):
        index[axis] = slice(b, e, s)
    sliced: Array = args[0][tuple(index)]
    return sliced


def _take(call: Expr, args: list[Array]) -> Array:
    axis = call.attrs.axis
    return np.take(args[0], args[1], axis=None if axis is None else int(axis))


def _reduce(function: Callable[..., Any]) -> Evaluator:
    def evaluate(call: Expr, args: list[Array]) -> Array:
        axis = call.attrs.axis
        axes = None if axis is None else tuple(int(a) for a in axis)
        return np.asarray(function(args[0], axis=axes, keepdims=bool(call.attrs.keepdims)))

    return evaluate


def _plain(function: Callable[..., Any]) -> Evaluator:
    def evaluate(call: Expr, args: list[Array]) -> Array:
        return np.asarray(function(*args))

    return evaluate


def _quantize(call: Expr, args: list[Array]) -> Array:
    data, scale, zero = _along_axis(call, args, dtype_of(call))
    bounds = np.iinfo(dtype_of(call))
    made: Array = np.clip(np.rint(data / scale) + zero, bounds.min, bounds.max)
    return made


def _dequantize(call: Expr, args: list[Array]) -> Array:
    data, scale, zero = _along_axis(call, args, str(args[0].dtype))
    made: Array = (data.astype(np.int64) - zero).astype(np.float32) * scale
    return made


def _along_axis(call: Expr, args: list[Array], integer: str) -> tuple[Array, Array, Array]:
    """Data, scale and zero point, the last two spread along the axis."""
    if np.dtype(integer).kind not in "iu" or args[1].dtype != np.float32:
        raise NotImplementedError
    data, *per_channel = args
    shape = [1] * data.ndim
    if data.ndim:
        shape[int(call.attrs.axis) % data.ndim] = -1
    scale, zero = (a.reshape(shape) if a.size > 1 else a.reshape(()) for a in per_channel)
    return data, scale, zero.astype(np.int64)


EVALUATORS: dict[str, Evaluator] = {
    "relax.abs": _plain(np.abs),
    "relax.add": _plain(np.add),
    "relax.astype": _cast,
    "relax.broadcast_to": _broadcast,
    "relax.ceil": _plain(np.ceil),
    "relax.concat": _concat,
    "relax.dequantize": _dequantize,
    "relax.divide": _plain(np.divide),
    "relax.equal": _plain(np.equal),
    "relax.exp": _plain(np.exp),
    "relax.expand_dims": _reshape,
    "relax.flatten": _reshape,
    "relax.floor": _plain(np.floor),
    "relax.greater": _plain(np.greater),
    "relax.isnan": _plain(np.isnan),
    "relax.less": _plain(np.less),
    "relax.log": _plain(np.log),
    "relax.matmul": _plain(np.matmul),
    "relax.max": _reduce(np.max),
    "relax.maximum": _plain(np.maximum),
    "relax.mean": _reduce(np.mean),
    "relax.min": _reduce(np.min),
    "relax.minimum": _plain(np.minimum),
    "relax.multiply": _plain(np.multiply),
    "relax.negative": _plain(np.negative),
    "relax.permute_dims": _permute,
    "relax.power": _plain(np.power),
    "relax.quantize": _quantize,
    "relax.reshape": _reshape,
    "relax.rsqrt": _plain(lambda x: 1.0 / np.sqrt(x)),
    "relax.sqrt": _plain(np.sqrt),
    "relax.squeeze": _reshape,
    "relax.strided_slice": _slice,
    "relax.subtract": _plain(np.subtract),
    "relax.sum": _reduce(np.sum),
    "relax.take": _take,
    "relax.where": _plain(np.where),
}


def fold_constant_call(call: Expr) -> Expr | None:
    """The constant that `call` computes, or None.

    None when an argument is not constant, when the op is not in `EVALUATORS`, or when the result
    would be larger than `MAX_FOLDED_BYTES` and than its arguments together. Integer division
    follows C (towards zero), as Relax does.
    """
    name = op_name(call)
    evaluator = EVALUATORS.get(name)
    if evaluator is None or call.ty is None:
        return None
    args = _tensor_args(call)
    if args is None or not args:
        return None
    dtype = dtype_of(call)
    if name == "relax.divide" and not dtype.startswith("float"):
        return None
    size = int(np.prod(shape_of(call), dtype=np.int64)) * np.dtype(dtype).itemsize
    if size > max(MAX_FOLDED_BYTES, sum(a.nbytes for a in args)):
        return None
    try:
        with np.errstate(all="ignore"):
            value = evaluator(call, args)
    except (NotImplementedError, ValueError, IndexError):  # the op itself fails
        return None
    return constant(np.asarray(value, dtype=dtype).reshape(shape_of(call)))


def _tensor_args(call: Expr) -> list[Array] | None:
    """The arrays of all tensor arguments, or None when one is not constant."""
    found: list[Array] = []
    for arg in call.args:
        parts = list(arg.fields) if isinstance(arg, relax.Tuple) else [arg]
        for part in parts:
            if isinstance(part, (tvm.tirx.IntImm, tvm.tirx.FloatImm, relax.ShapeExpr)):
                continue
            if not is_constant(part):
                return None
            array = const_array(part)
            assert array is not None
            found.append(array)
    return found
