"""How ops that move data run in channels-last order: concat, split, slices, pads, reshapes."""

from __future__ import annotations

import numpy as np
from tvm import relax

from lepton_tvm.ir.graph import Expr, shape_of, with_args, with_attrs
from lepton_tvm.passes.graph.canonicalize.simplify_shapes import moves_only_units, permute_axes
from lepton_tvm.passes.graph.layout.layout_tensors import (
    Layouts,
    Tensor,
    last_axis_of,
    to_first_axes,
    to_last_axes,
)

__all__ = [
    "follow_concat",
    "follow_pad",
    "follow_permute_dims",
    "follow_reshape",
    "follow_split",
    "follow_strided_slice",
]


def follow_concat(layouts: Layouts, call: Expr) -> Tensor | None:
    """concat along the moved axis, where one of the parts is channels last."""
    parts = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
    if not any(layouts.is_last(p) for p in parts):
        return None
    axis = last_axis_of(int(call.attrs.axis or 0), len(shape_of(call)))
    return layouts.made_last(relax.op.concat([layouts.last(p) for p in parts], axis))


def follow_split(layouts: Layouts, call: Expr) -> list[Tensor] | None:
    """split along the moved axis; each piece is channels last."""
    data = call.args[0]
    if not layouts.is_last(data):
        return None
    axis = last_axis_of(int(call.attrs.axis), len(shape_of(data)))
    made = layouts.emit(with_attrs(call, [layouts.last(data)], axis=axis), layouts.name)
    count = len(made.ty.fields)
    return [Tensor(last=layouts.emit(relax.TupleGetItem(made, i), None)) for i in range(count)]


def follow_strided_slice(layouts: Layouts, call: Expr) -> Tensor | None:
    """strided_slice along the moved axes."""
    data = call.args[0]
    if not layouts.is_last(data):
        return None
    rank = len(shape_of(data))
    axes = relax.Tuple([relax.prim_value(last_axis_of(int(a), rank)) for a in call.args[1].fields])
    return layouts.made_last(with_args(call, [layouts.last(data), axes, *call.args[2:]]))


def follow_pad(layouts: Layouts, call: Expr) -> Tensor | None:
    """pad with the pairs of widths in the new order."""
    data = call.args[0]
    if not layouts.is_last(data):
        return None
    widths = [int(w) for w in call.attrs.pad_width]
    moved = [widths[2 * a + i] for a in to_last_axes(len(shape_of(data))) for i in (0, 1)]
    return layouts.made_last(with_attrs(call, [layouts.last(data)], pad_width=moved))


def follow_permute_dims(layouts: Layouts, call: Expr) -> Tensor | None:
    """permute_dims from or to channels first vanishes or becomes another permutation."""
    data = call.args[0]
    rank = len(shape_of(data))
    axes = permute_axes(call)
    if not layouts.is_last(data):
        # the input of a permute to channels first is that value in channels last
        is_inverse = rank in (3, 4) and list(axes) == to_first_axes(rank)
        return Tensor(last=layouts.first(data)) if is_inverse else None
    if rank > 4 and axes[0] == 0 and axes[-2:] == (rank - 2, rank - 1):
        moved = [last_axis_of(axes[a], rank) for a in to_last_axes(rank)]
        return layouts.made_last(relax.op.permute_dims(layouts.last(data), moved))
    moved = [last_axis_of(a, rank) for a in axes]
    last = layouts.last(data)
    if moved == list(range(rank)):
        return Tensor(first=last)
    return Tensor(first=layouts.emit(relax.op.permute_dims(last, moved), layouts.name))


def follow_reshape(layouts: Layouts, call: Expr) -> Tensor | None:
    """reshape that leaves batch and channels alone, or where the order of elements is the same."""
    data = call.args[0]
    if not layouts.is_last(data):
        return None
    old, new = shape_of(data), shape_of(call)
    if moves_only_units(old, to_last_axes(len(old))):
        made = relax.op.reshape(layouts.last(data), new)
        return Tensor(first=layouts.emit(made, layouts.name))
    if len(new) < 3 or old[0] != new[0] or _channels(old) != _channels(new):
        return None
    moved = [new[a] for a in to_last_axes(len(new))]
    return layouts.made_last(relax.op.reshape(layouts.last(data), moved))


def _channels(shape: tuple[int, ...]) -> int:
    """All dims between batch and space, multiplied."""
    return int(np.prod(shape[1:-2] if len(shape) > 3 else shape[1:2]))
