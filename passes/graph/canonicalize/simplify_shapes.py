"""Rules for ops that only move data: reshape and its relatives, permute_dims, pad, slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax

from lepton_tvm.ir.graph import (
    Expr,
    GraphBuilder,
    const_array,
    constant,
    dtype_of,
    op_name,
    shape_of,
    with_attrs,
)
from lepton_tvm.passes.graph.canonicalize.tir_patterns import match_padding

__all__ = [
    "compose_permutes",
    "drop_same_shape",
    "fold_pad_into_conv",
    "keep_reduced_dims",
    "merge_reshapes",
    "moves_only_units",
    "pad_from_primfunc",
    "permute_axes",
    "select_known",
    "shape_to_constant",
    "slice_from_take",
    "to_reshape",
]


def permute_axes(call: Expr) -> tuple[int, ...]:
    """The axes of a `permute_dims`, positive; reversed order where none are given."""
    rank = len(shape_of(call.args[0]))
    axes = call.attrs.axes
    return tuple(range(rank))[::-1] if axes is None else tuple(int(a) % rank for a in axes)


def moves_only_units(shape: Sequence[int], axes: Sequence[int]) -> bool:
    """True when permuting `shape` by `axes` keeps the order of all dims that are not 1."""
    moved = [a for a in axes if shape[a] != 1]
    return moved == sorted(moved)


def to_reshape(g: GraphBuilder, call: Expr) -> Expr | None:
    """squeeze, expand_dims, flatten -> reshape."""
    return relax.op.reshape(call.args[0], shape_of(call))


def drop_same_shape(g: GraphBuilder, call: Expr) -> Expr | None:
    """A reshape, cast, broadcast, slice, pad or concat that changes nothing -> its input."""
    data = call.args[0]
    if isinstance(data, relax.Tuple):
        return data.fields[0] if len(data.fields) == 1 else None
    same = shape_of(data) == shape_of(call) and dtype_of(data) == dtype_of(call)
    if same and op_name(call) == "relax.strided_slice" and len(call.args) > 4:
        same = all(int(s) > 0 for s in call.args[4].fields)
    return data if same else None


def merge_reshapes(g: GraphBuilder, call: Expr) -> Expr | None:
    """reshape(reshape(x)) -> reshape(x); a reshape of unit dims moves above a permute_dims.

    Doing the reshape first lets permutes meet and cancel. Does not handle: a reshape that merges or
    splits dims larger than 1 across a permute.
    """
    inner = g.value(call.args[0])
    if inner is not call.args[0] and op_name(inner) == "relax.reshape":
        return relax.op.reshape(inner.args[0], shape_of(call))
    inner = g.single_use(call.args[0])
    if inner is None or op_name(inner) != "relax.permute_dims":
        return None
    permuted, wanted = shape_of(inner), shape_of(call)
    if [d for d in permuted if d != 1] != [d for d in wanted if d != 1]:
        return None
    source = [a for a, d in zip(permute_axes(inner), permuted, strict=True) if d != 1]
    places = [i for i, d in enumerate(wanted) if d != 1]
    by_source = [place for _, place in sorted(zip(source, places, strict=True))]
    order = [i for i, d in enumerate(wanted) if d == 1] + by_source
    first = relax.op.reshape(inner.args[0], [wanted[i] for i in order])
    axes = [order.index(i) for i in range(len(wanted))]
    return relax.op.permute_dims(first, axes)


def compose_permutes(g: GraphBuilder, call: Expr) -> Expr | None:
    """permute(permute(x)) -> one permute; identity -> x; only unit dims moved -> reshape."""
    data = call.args[0]
    axes = permute_axes(call)
    inner = g.value(data)
    if inner is not data and op_name(inner) == "relax.permute_dims":
        before = permute_axes(inner)
        return relax.op.permute_dims(inner.args[0], [before[a] for a in axes])
    if axes == tuple(range(len(axes))):
        return data
    if moves_only_units(shape_of(data), axes):
        return relax.op.reshape(data, shape_of(call))
    return None


def pad_from_primfunc(g: GraphBuilder, call: Expr) -> Expr | None:
    """The importer's `call_tir(pad | mirror_pad | replicate_pad)` -> `relax.nn.pad`."""
    found = match_padding(g.mod, call)
    if found is None:
        return None
    widths = [side for axis in found.widths for side in axis]
    if not any(widths):
        return found.data
    return relax.op.nn.pad(found.data, widths, found.mode, found.value)


def fold_pad_into_conv(g: GraphBuilder, call: Expr) -> Expr | None:
    """conv2d(pad(x, 0)) -> conv2d with that much more padding, when only space is padded."""
    pad = g.value(call.args[0])
    if op_name(pad) != "relax.nn.pad" or pad.attrs.pad_mode != "constant":
        return None
    if float(pad.attrs.pad_value) != 0.0:
        return None
    widths = [int(w) for w in pad.attrs.pad_width]
    pairs = dict(
        zip(call.attrs.data_layout, zip(widths[::2], widths[1::2], strict=True), strict=True)
    )
    if any(pairs["N"]) or any(pairs["C"]):
        return None
    (top, bottom), (left, right) = pairs["H"], pairs["W"]
    old = [int(p) for p in call.attrs.padding]
    new = [p + q for p, q in zip(old, (top, left, bottom, right), strict=True)]
    return with_attrs(call, [pad.args[0], call.args[1]], padding=new)


def keep_reduced_dims(g: GraphBuilder, call: Expr) -> Expr | None:
    """A rank-4 reduction without kept dims -> the same with kept dims, then a reshape."""
    if bool(call.attrs.keepdims) or len(shape_of(call.args[0])) != 4 or call.attrs.axis is None:
        return None
    return relax.op.reshape(with_attrs(call, keepdims=True), shape_of(call))


def shape_to_constant(g: GraphBuilder, call: Expr) -> Expr | None:
    """shape_to_tensor of a known shape -> an int64 constant."""
    shape = g.value(call.args[0])
    if op_name(shape) == "relax.shape_of":
        return constant(np.array(shape_of(shape.args[0]), np.int64))
    if isinstance(shape, relax.ShapeExpr):
        return constant(np.array([int(d) for d in shape.values], np.int64))
    return None


def select_known(g: GraphBuilder, call: Expr) -> Expr | None:
    """where(constant, a, b) with one answer everywhere -> a or b."""
    condition = const_array(call.args[0])
    if condition is None or not (np.all(condition) or not np.any(condition)):
        return None
    chosen = call.args[1] if np.all(condition) else call.args[2]
    return chosen if shape_of(chosen) == shape_of(call) else None


def slice_from_take(g: GraphBuilder, call: Expr) -> Expr | None:
    """take of one constant position along an axis -> strided_slice and reshape."""
    index = const_array(call.args[1])
    data = call.args[0]
    if index is None or index.size != 1 or call.attrs.axis is None:
        return None
    shape = shape_of(data)
    axis = int(call.attrs.axis) % len(shape)
    at = int(index.reshape(())) + (shape[axis] if index.reshape(()) < 0 else 0)
    if not 0 <= at < shape[axis]:
        return None
    piece = relax.op.strided_slice(data, [axis], [at], [at + 1], [1])
    return relax.op.reshape(piece, shape_of(call))
