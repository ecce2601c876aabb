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

from lepton_tvm.errors import ModelError
from lepton_tvm.frontend.indexing import gather, pad, slice_by_attributes, tile, top_k
from lepton_tvm.frontend.resize import resize, upsample
from lepton_tvm.frontend.values import constant_of, input_at, shape_of

__all__ = ["CONVERTERS", "Converter"]

Converter = Callable[[relax.BlockBuilder, list[Any], dict[str, Any], int], "relax.Expr | None"]


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
            given = input_at(inputs, index)
            array = constant_of(given) if given is not None else np.array(free)
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


def dropout(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Dropout` at inference: its input, and a mask of ones where one is asked for."""
    mode = input_at(inputs, 2)
    training = constant_of(mode) if mode is not None else np.array(False)
    if training is None or bool(training.reshape(-1)[0]):
        raise ModelError("it is in training mode; export the model for inference (model.eval())")
    if attrs["tvm_custom"]["num_outputs"] == 1:
        return inputs[0]
    mask = relax.op.full(shape_of(inputs[0]), relax.const(True, "bool"), "bool")
    return relax.Tuple([inputs[0], bb.normalize(mask)])


def power(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Pow`: squares and roots as such, the exponent in the type of the base."""
    x, exponent = inputs[0], inputs[1]
    dtype = str(x.ty.dtype)
    array = constant_of(exponent)
    if array is not None and array.size == 1 and array.ndim <= len(shape_of(x)):
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
        raise ModelError(f"powers of {dtype} are computed for the exponents 1, 2 and 3 only")
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
        return relax.op.full(shape_of(inputs[0]), relax.const(False, "bool"), "bool")
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


def roi_align(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`RoiAlign` by TVM's converter; mode "max" is refused, for which it takes other samples."""
    if attrs.get("mode", b"avg") != b"avg":
        raise ModelError("RoiAlign with mode 'max' is not supported, only 'avg'")
    return None


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
    "RoiAlign": roi_align,
    "Slice": slice_by_attributes,
    "Tile": tile,
    "TopK": top_k,
    "Upsample": upsample,
}
"""ONNX operator -> converter, tried before TVM's own."""
