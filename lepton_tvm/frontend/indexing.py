"""Converters of operators that choose, repeat or surround elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from lepton_tvm.errors import ModelError
from lepton_tvm.frontend.values import constant_of, input_at, shape_of

__all__ = ["gather", "pad", "slice_by_attributes", "tile", "top_k"]

_PAD_MODES = {
    b"constant": "constant", b"reflect": "reflect", b"edge": "replicate", b"wrap": "circular",
}  # fmt: skip


def pad(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Pad` as `R.nn.pad`; negative widths, which crop, as a slice before it."""
    x = inputs[0]
    rank = len(shape_of(x))
    value: Any = 0.0
    if opset < 11:
        widths = np.array(attrs.get("pads", attrs.get("paddings")), dtype=np.int64)
        value = attrs.get("value", 0.0)
    else:
        given = constant_of(inputs[1])
        if given is None:
            raise ModelError("its pads are computed at run time; they must be constant")
        widths = given.astype(np.int64)
        if input_at(inputs, 2) is not None:
            constant = constant_of(inputs[2])
            if constant is None:
                raise ModelError("its padding value is computed at run time; it must be constant")
            value = constant.reshape(-1)[0].item() if constant.size else 0.0
    axes = np.arange(rank)
    if input_at(inputs, 3) is not None:
        given_axes = constant_of(inputs[3])
        if given_axes is None:
            raise ModelError("its axes are computed at run time; they must be constant")
        axes = given_axes.astype(np.int64) % rank
    if len(widths) != 2 * len(axes):
        raise ModelError(f"{len(widths)} pads for {len(axes)} axes; there must be two per axis")
    before, after = np.zeros(rank, np.int64), np.zeros(rank, np.int64)
    before[axes], after[axes] = np.split(widths, 2)
    if (before < 0).any() or (after < 0).any():
        x = _crop(bb, x, np.maximum(-before, 0), np.maximum(-after, 0))
        before, after = np.maximum(before, 0), np.maximum(after, 0)
    if not before.any() and not after.any():
        return x
    mode = _PAD_MODES.get(attrs.get("mode", b"constant"))
    if mode is None:
        raise ModelError(f"pad mode {attrs['mode']!r} is not known")
    pairs = [int(width) for pair in zip(before, after, strict=True) for width in pair]
    return relax.op.nn.pad(x, pairs, mode, float(value))


def _crop(
    bb: relax.BlockBuilder, x: relax.Expr, before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]
) -> relax.Expr:
    shape = shape_of(x)
    ends = [int(n - a) for n, a in zip(shape, after, strict=True)]
    begins = [int(b) for b in before]
    axes = list(range(len(shape)))
    return bb.normalize(relax.op.strided_slice(x, axes, begins, ends, [1] * len(shape)))


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
    shape = shape_of(data)
    axis = attrs.get("axis", 0) % len(shape)
    size = shape[axis]
    given = constant_of(indices)
    if given is None:
        dtype = str(indices.ty.dtype)
        below = bb.normalize(relax.op.less(indices, relax.const(0, dtype)))
        from_end = bb.normalize(relax.op.add(indices, relax.const(size, dtype)))
        wrapped = bb.normalize(relax.op.where(below, from_end, indices))
        return relax.op.take(data, wrapped, axis, mode="clip")
    if given.size and (given.min() < -size or given.max() >= size):
        raise ModelError(
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
    shape = shape_of(inputs[0])
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


def tile(
    bb: relax.BlockBuilder, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> relax.Expr | None:
    """`Tile` with constant repeats as `R.tile`."""
    repeats = constant_of(inputs[1])
    if repeats is None:
        raise ModelError("its repeats are computed at run time; they must be constant")
    return relax.op.tile(inputs[0], [int(r) for r in repeats])
