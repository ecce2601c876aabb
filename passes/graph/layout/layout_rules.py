"""How each op runs in channels-last order: one rule per kind of op.

A rule answers None for an op that has nothing to gain and stays as it is, and `Refused` for one
that would gain and cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from tvm import relax

from lepton_tvm.ir.graph import Expr, const_array, constant, op_name, shape_of, with_attrs
from lepton_tvm.ir.ops import OPS
from lepton_tvm.passes.base import Refused
from lepton_tvm.passes.graph.layout import layout_movement as movement
from lepton_tvm.passes.graph.layout.layout_elementwise import follow_elementwise
from lepton_tvm.passes.graph.layout.layout_tensors import (
    Layouts,
    Tensor,
    is_tensor,
    last_axis_of,
    to_last_axes,
)
from lepton_tvm.passes.graph.layout.transposed_conv import phases_of_transposed_conv

__all__ = ["RULES"]

Rule: TypeAlias = Callable[[Layouts, Expr], "Tensor | list[Tensor] | Refused | None"]


def _conv2d(layouts: Layouts, call: Expr) -> Tensor | Refused | None:
    if call.attrs.data_layout != "NCHW":
        return None
    if call.attrs.kernel_layout != "OIHW":
        return Refused(f"its layouts are not NCHW and OIHW: {call.attrs}")
    data = layouts.last(call.args[0])
    weight = _weight_hwio(layouts, call.args[1])
    return layouts.made_last(
        with_attrs(
            call, [data, weight], data_layout="NHWC", kernel_layout="HWIO", out_layout="NHWC"
        )
    )


def _weight_hwio(layouts: Layouts, weight: Expr) -> Expr:
    """OIHW -> HWIO: in NumPy for a constant, also below a dequantize, else by permute_dims."""
    axes = [2, 3, 1, 0]
    array = const_array(weight)
    if array is not None:
        return constant(array.transpose(axes))
    first = layouts.first(weight)
    made = layouts.value(first)
    stored = const_array(made.args[0]) if op_name(made) == "relax.dequantize" else None
    if stored is None:
        return layouts.emit(relax.op.permute_dims(first, axes), None)
    axis = axes.index(int(made.attrs.axis) % 4)
    args = [constant(stored.transpose(axes)), *made.args[1:]]
    return layouts.emit(with_attrs(made, args, axis=axis), None)


def _conv2d_transpose(layouts: Layouts, call: Expr) -> Tensor | Refused | None:
    if call.attrs.data_layout != "NCHW":
        return None
    if const_array(call.args[1]) is None:
        return Refused("its weight is not constant")
    phases = phases_of_transposed_conv(call, layouts.last(call.args[0]))
    data = layouts.emit(phases.data, layouts.name)
    return Tensor(phases=type(phases)(data, phases.spread, phases.tile))


def _pool(layouts: Layouts, call: Expr) -> Tensor | None:
    if call.attrs.layout != "NCHW":
        return None
    data = layouts.last(call.args[0])
    return layouts.made_last(with_attrs(call, [data], layout="NHWC", out_layout="NHWC"))


def _resize2d(layouts: Layouts, call: Expr) -> Tensor | None:
    if call.attrs.layout != "NCHW":
        return None
    args = [layouts.last(call.args[0]), *call.args[1:]]
    return layouts.made_last(with_attrs(call, args, layout="NHWC"))


def _reduction(layouts: Layouts, call: Expr) -> Tensor | None:
    rank = len(shape_of(call.args[0]))
    axes = range(rank) if call.attrs.axis is None else [int(a) for a in call.attrs.axis]
    return _reduced(layouts, call, axes, sorted(last_axis_of(a, rank) for a in axes))


def _arg_reduction(layouts: Layouts, call: Expr) -> Tensor | None:
    """argmax and argmin: one axis, or None for all (whose index counts in the old order)."""
    if call.attrs.axis is None:
        return None
    axis = int(call.attrs.axis)
    return _reduced(layouts, call, [axis], last_axis_of(axis, len(shape_of(call.args[0]))))


def _reduced(
    layouts: Layouts, call: Expr, axes: Iterable[int], moved: int | list[int]
) -> Tensor | None:
    """The reduction over `axes`, which are `moved` in channels last."""
    data = call.args[0]
    if not layouts.is_last(data):
        return None
    rank = len(shape_of(data))
    made = with_attrs(call, [layouts.last(data)], axis=moved)
    if bool(call.attrs.keepdims):
        return layouts.made_last(made)
    kept = [a for a in to_last_axes(rank) if a not in {x % rank for x in axes}]
    if kept != sorted(kept):
        return None
    return Tensor(first=layouts.emit(made, layouts.name))


def _one_axis(layouts: Layouts, call: Expr) -> Tensor | None:
    """softmax, prelu, quantize, ...: an `axis` attribute; further arguments stay."""
    data = call.args[0]
    if not layouts.is_last(data):
        return None
    axis = int(call.attrs.axis)
    if len(call.args) == 1 or shape_of(call.args[1]):  # a scalar scale has no axis to move
        axis = last_axis_of(axis, len(shape_of(data)))
    rest = [layouts.first(a) if is_tensor(a) else a for a in call.args[1:]]
    return layouts.made_last(with_attrs(call, [layouts.last(data), *rest], axis=axis))


def _normalization(layouts: Layouts, call: Expr) -> Tensor | None:
    """group_norm and instance_norm: `channel_axis` and `axes`."""
    data = call.args[0]
    if not layouts.is_last(data):
        return None
    rank = len(shape_of(data))
    axes = sorted(last_axis_of(int(a), rank) for a in call.attrs.axes)
    channel = last_axis_of(int(call.attrs.channel_axis), rank)
    rest = [layouts.first(a) if is_tensor(a) else a for a in call.args[1:]]
    args = [layouts.last(data), *rest]
    return layouts.made_last(with_attrs(call, args, axes=axes, channel_axis=channel))


# The words of the column `layout` of `ir/ops.py`; `no_form` has no rule.
_BY_WORD: dict[str, Rule] = {
    "arg_reduction": _arg_reduction,
    "concat": movement.follow_concat,
    "conv2d": _conv2d,
    "conv2d_transpose": _conv2d_transpose,
    "elementwise": follow_elementwise,
    "normalization": _normalization,
    "one_axis": _one_axis,
    "pad": movement.follow_pad,
    "permute": movement.follow_permute_dims,
    "pool": _pool,
    "reduction": _reduction,
    "reshape": movement.follow_reshape,
    "resize": _resize2d,
    "split": movement.follow_split,
    "strided_slice": movement.follow_strided_slice,
}
#: Op -> rule, for every op that has a form in channels-last order.
RULES: dict[str, Rule] = {
    op.name: _BY_WORD[op.layout] for op in OPS.values() if op.layout not in ("", "no_form")
}
