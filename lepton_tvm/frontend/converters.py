"""Converters of our own, used before TVM's.

Each maps (block builder, inputs, attributes, opset) to a Relax expression, or to None where TVM's
converter is right. They exist for one of two reasons: TVM's emits a `call_tir` that no later pass
can see through (Clip, Pad, Tile), or TVM's reads an older operator set wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from lepton_tvm.frontend.resize import constant_of as _constant
from lepton_tvm.frontend.resize import resize, upsample
from lepton_tvm.frontend.resize import shape_of as _shape

__all__ = ["CONVERTERS", "Converter"]

Converter = Callable[[relax.BlockBuilder, list[Any], dict[str, Any], int], "relax.Expr | None"]


def _input(inputs: list[Any], index: int) -> Any:
    return inputs[index] if index < len(inputs) else None


def clip(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Clip` with constant bounds as `R.clip`, `R.nn.relu`, or one-sided maximum or minimum."""
    x = inputs[0]
    dtype = str(x.ty.dtype)
    if opset < 11:
        low, high = attrs.get("min", -math.inf), attrs.get("max", math.inf)
    else:
        bounds = []
        for index, free in ((1, -math.inf), (2, math.inf)):
            given = _input(inputs, index)
            array = _constant(given) if given is not None else np.array(free)
            if array is None or array.size != 1:
                return None
            bounds.append(array.reshape(()).item())
        low, high = bounds
    # ONNX Runtime reads a NaN bound as no bound, and exporters rely on it.
    low = -math.inf if math.isnan(low) else low
    high = math.inf if math.isnan(high) else high
    is_float = dtype.startswith(("float", "bfloat"))
    limit = np.finfo(np.float32).max if is_float else math.inf
    has_low, has_high = low > -limit, high < limit
    if not has_low and not has_high:
        return x
    if is_float and has_low and has_high and low <= high:
        return relax.op.clip(x, low, high)
    if is_float and not has_high and low == 0:
        return relax.op.nn.relu(x)
    if has_low:
        x = bb.normalize(relax.op.maximum(x, relax.const(low, dtype)))
    return relax.op.minimum(x, relax.const(high, dtype)) if has_high else x


_PAD_MODES = {
    b"constant": "constant", b"reflect": "reflect", b"edge": "replicate", b"wrap": "circular",
}  # fmt: skip


def pad(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Pad` as `R.nn.pad`; negative widths, which crop, as a slice before it."""
    x = inputs[0]
    rank = len(_shape(x))
    value: Any = 0.0
    if opset < 11:
        widths = np.array(attrs.get("pads", attrs.get("paddings")), dtype=np.int64)
        value = attrs.get("value", 0.0)
    else:
        given = _constant(inputs[1])
        if given is None:
            raise ValueError("its pads are computed at run time; they must be constant")
        widths = given.astype(np.int64)
        if _input(inputs, 2) is not None:
            constant = _constant(inputs[2])
            if constant is None:
                raise ValueError("its padding value is computed at run time; it must be constant")
            value = constant.reshape(-1)[0].item() if constant.size else 0.0
    axes = np.arange(rank)
    if _input(inputs, 3) is not None:
        given_axes = _constant(inputs[3])
        if given_axes is None:
            raise ValueError("its axes are computed at run time; they must be constant")
        axes = given_axes.astype(np.int64) % rank
    if len(widths) != 2 * len(axes):
        raise ValueError(f"{len(widths)} pads for {len(axes)} axes; there must be two per axis")
    before, after = np.zeros(rank, np.int64), np.zeros(rank, np.int64)
    before[axes], after[axes] = np.split(widths, 2)
    if (before < 0).any() or (after < 0).any():
        x = _crop(bb, x, np.maximum(-before, 0), np.maximum(-after, 0))
        before, after = np.maximum(before, 0), np.maximum(after, 0)
    if not before.any() and not after.any():
        return x
    mode = _PAD_MODES.get(attrs.get("mode", b"constant"))
    if mode is None:
        raise ValueError(f"pad mode {attrs['mode']!r} is not known")
    pairs = [int(width) for pair in zip(before, after, strict=True) for width in pair]
    return relax.op.nn.pad(x, pairs, mode, float(value))


def _crop(
    bb: relax.BlockBuilder, x: relax.Expr, before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]
) -> relax.Expr:
    shape = _shape(x)
    ends = [int(n - a) for n, a in zip(shape, after, strict=True)]
    begins = [int(b) for b in before]
    axes = list(range(len(shape)))
    return bb.normalize(relax.op.strided_slice(x, axes, begins, ends, [1] * len(shape)))


def tile(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Tile` with constant repeats as `R.tile`."""
    repeats = _constant(inputs[1])
    if repeats is None:
        raise ValueError("its repeats are computed at run time; they must be constant")
    return relax.op.tile(inputs[0], [int(r) for r in repeats])


def dropout(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Dropout` at inference: its input, and a mask of ones where one is asked for."""
    mode = _input(inputs, 2)
    training = _constant(mode) if mode is not None else np.array(False)
    if training is None or bool(training.reshape(-1)[0]):
        raise ValueError("it is in training mode; export the model for inference (model.eval())")
    if attrs["tvm_custom"]["num_outputs"] == 1:
        return inputs[0]
    mask = relax.op.full(_shape(inputs[0]), relax.const(True, "bool"), "bool")
    return relax.Tuple([inputs[0], bb.normalize(mask)])


def power(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Pow`: squares and roots as such, the exponent in the type of the base."""
    x, exponent = inputs[0], inputs[1]
    dtype = str(x.ty.dtype)
    array = _constant(exponent)
    if array is not None and array.size == 1 and array.ndim <= len(_shape(x)):
        value = array.reshape(()).item()
        if value == 1:
            return x
        if value == 2:
            return relax.op.multiply(x, x)
        if value == 3 and not dtype.startswith("float"):
            return relax.op.multiply(bb.normalize(relax.op.multiply(x, x)), x)
        if value == 0.5 and dtype.startswith("float"):
            return relax.op.sqrt(x)
    if not dtype.startswith(("float", "bfloat")):
        raise ValueError(f"powers of {dtype} are computed for the exponents 1, 2 and 3 only")
    if str(exponent.ty.dtype) != dtype:
        exponent = bb.normalize(relax.op.astype(exponent, dtype))
    return relax.op.power(x, exponent)


def is_inf(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`IsInf` of one sign only, which TVM's converter takes for both."""
    positive, negative = attrs.get("detect_positive", 1), attrs.get("detect_negative", 1)
    if positive and negative:
        return None
    sign = math.inf if positive else -math.inf
    if not positive and not negative:
        return relax.op.full(_shape(inputs[0]), relax.const(False, "bool"), "bool")
    return relax.op.equal(inputs[0], relax.const(sign, str(inputs[0].ty.dtype)))


def celu(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Celu` as max(0, x) + min(0, alpha * (exp(x / alpha) - 1)), as ONNX defines it."""
    x = inputs[0]
    dtype = str(x.ty.dtype)
    alpha, one = relax.const(attrs.get("alpha", 1.0), dtype), relax.const(1, dtype)
    grown = relax.op.subtract(relax.op.exp(relax.op.divide(x, alpha)), one)
    below = relax.op.minimum(relax.op.multiply(alpha, grown), relax.const(0, dtype))
    return relax.op.add(relax.op.nn.relu(x), below)


def lp_normalization(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`LpNormalization` of order 1 or 2; where the norm is 0 the result is 0, as ONNX says."""
    x = inputs[0]
    dtype = str(x.ty.dtype)
    axis, order = attrs.get("axis", -1), attrs.get("p", 2)
    if order == 1:
        norm = relax.op.sum(relax.op.abs(x), axis, keepdims=True)
    else:
        norm = relax.op.sqrt(relax.op.sum(relax.op.multiply(x, x), axis, keepdims=True))
    tiny = relax.const(np.finfo(np.float32).tiny, dtype)
    return relax.op.divide(x, relax.op.maximum(norm, tiny))


def max_roi_align(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`RoiAlign`: TVM's, except for mode "max", which it computes with other samples than ONNX."""
    if attrs.get("mode", b"avg") != b"avg":
        raise ValueError("RoiAlign with mode 'max' is not supported, only 'avg'")
    return None


def gather(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Gather` that never reads outside of its data: a wrong token id must not be a segfault.

    Constant indices are checked here, where TVM would read what lies beside the data; indices that
    come at run time are clamped. One constant index is a slice, which fuses.
    """
    data, indices = inputs[0], inputs[1]
    if isinstance(data, relax.ShapeExpr) or isinstance(indices, relax.ShapeExpr):
        return None
    shape = _shape(data)
    axis = attrs.get("axis", 0) % len(shape)
    size = shape[axis]
    given = _constant(indices)
    if given is None:
        dtype = str(indices.ty.dtype)
        below = bb.normalize(relax.op.less(indices, relax.const(0, dtype)))
        from_end = bb.normalize(relax.op.add(indices, relax.const(size, dtype)))
        wrapped = bb.normalize(relax.op.where(below, from_end, indices))
        return relax.op.take(data, wrapped, axis, mode="clip")
    if given.size and (given.min() < -size or given.max() >= size):
        raise ValueError(
            f"index {given.min() if given.min() < -size else given.max()} is outside of axis "
            f"{axis}, which has {size} elements"
        )
    positive = np.where(given < 0, given + size, given)
    if positive.ndim == 0:
        at = int(positive)
        part = bb.normalize(relax.op.strided_slice(data, [axis], [at], [at + 1], [1]))
        return relax.op.squeeze(part, [axis])
    return relax.op.take(data, relax.const(positive, "int64"), axis, mode="clip")


def slice_by_attributes(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Slice` before opset 10, when its bounds were attributes."""
    if opset >= 10:
        return None
    shape = _shape(inputs[0])
    axes = [int(axis) % len(shape) for axis in attrs.get("axes", range(len(attrs["starts"])))]
    ranges = [
        slice(int(start), int(end)).indices(shape[axis])
        for start, end, axis in zip(attrs["starts"], attrs["ends"], axes, strict=True)
    ]
    begins, ends = [r[0] for r in ranges], [r[1] for r in ranges]
    return relax.op.strided_slice(inputs[0], axes, begins, ends, [1] * len(axes))


def top_k(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`TopK` of opset 10, whose count is an input already; TVM reads an attribute until 11."""
    if opset != 10:
        return None
    return onnx_frontend.TopK.get_converter(11)(bb, inputs, attrs, [{}, {}])


CONVERTERS: dict[str, Converter] = {
    "Celu": celu,
    "Clip": clip,
    "Dropout": dropout,
    "Gather": gather,
    "IsInf": is_inf,
    "LpNormalization": lp_normalization,
    "Pad": pad,
    "Pow": power,
    "Resize": resize,
    "RoiAlign": max_roi_align,
    "Slice": slice_by_attributes,
    "Tile": tile,
    "TopK": top_k,
    "Upsample": upsample,
}
"""ONNX operator -> converter, tried before TVM's own."""
