"""How each op runs in channels-last order: one rule per kind of op, None for 'keep it as it is'."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import tvm
from tvm import relax

from lepton_tvm.ir.graph import (
    Expr,
    const_array,
    constant,
    op_name,
    shape_of,
    with_attrs,
)
from lepton_tvm.passes.layout_tensors import (
    Layouts,
    Tensor,
    last_axis_of,
    to_first_axes,
    to_last_axes,
)
from lepton_tvm.passes.linear_ops import per_channel
from lepton_tvm.passes.simplify_shapes import moves_only_units, permute_axes
from lepton_tvm.passes.transposed_conv import phases_of_transposed_conv

__all__ = ["RULES"]

Rule: TypeAlias = Callable[[Layouts, Expr], "Tensor | list[Tensor] | None"]


def _conv2d(layouts: Layouts, call: Expr) -> Tensor | None:
    if call.attrs.data_layout != "NCHW" or call.attrs.kernel_layout != "OIHW":
        return None
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


def _conv2d_transpose(layouts: Layouts, call: Expr) -> Tensor | None:
    if call.attrs.data_layout != "NCHW" or const_array(call.args[1]) is None:
        return None
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


def _elementwise(layouts: Layouts, call: Expr) -> Tensor | None:
    """Any op on elements: follows when one of its tensors of full rank is channels last."""
    rank = len(shape_of(call))
    tensors = [a for a in call.args if _is_tensor(a)]
    if rank < 3 or not any(layouts.is_last(a) and len(shape_of(a)) == rank for a in tensors):
        return None
    in_phases = _elementwise_on_phases(layouts, call, tensors)
    if in_phases is not None:
        return in_phases
    args = [layouts.last(a, rank) if _spreads(a) else a for a in call.args]
    return layouts.made_last(_with_args(call, args))


def _elementwise_on_phases(layouts: Layouts, call: Expr, tensors: list[Expr]) -> Tensor | None:
    """An op with per-channel constants runs before the pixels of a transposed conv are spread."""
    data = layouts.tensor(tensors[0]) if isinstance(tensors[0], relax.Var) else None
    if data is None or data.phases is None or data.last is not None:
        return None
    shape = shape_of(call)
    args = []
    for arg in call.args:
        if arg is tensors[0] or arg.same_as(tensors[0]):
            args.append(data.phases.data)
            continue
        array = const_array(arg) if _is_tensor(arg) else None
        vector = None if array is None else per_channel(array, shape, 1)
        if _spreads(arg) and vector is None:
            return None
        args.append(data.phases.tile(vector) if _spreads(arg) else arg)
    made = layouts.emit(_with_args(call, args), layouts.name)
    return Tensor(phases=type(data.phases)(made, data.phases.spread, data.phases.tile))


def _spreads(arg: Expr) -> bool:
    """True for a tensor whose layout matters: more than one element."""
    return _is_tensor(arg) and len(shape_of(arg)) > 0


def _is_tensor(arg: Expr) -> bool:
    return isinstance(arg, relax.Var) or const_array(arg) is not None


def _with_args(call: Expr, args: list[Expr]) -> Expr:
    return tvm.ir.Call(call.op, args, call.attrs, call.ty_args)


def _reduction(layouts: Layouts, call: Expr) -> Tensor | None:
    data = call.args[0]
    if not layouts.is_last(data):
        return None
    rank = len(shape_of(data))
    axes = range(rank) if call.attrs.axis is None else [int(a) for a in call.attrs.axis]
    moved = sorted(last_axis_of(a, rank) for a in axes)
    made = with_attrs(call, [layouts.last(data)], axis=moved)
    if bool(call.attrs.keepdims):
        return layouts.made_last(made)
    kept = [a for a in to_last_axes(rank) if a not in {x % rank for x in axes}]
    if kept != sorted(kept):
        return None
    return Tensor(first=layouts.emit(made, layouts.name))


def _arg_reduction(layouts: Layouts, call: Expr) -> Tensor | None:
    """argmax and argmin: one axis, or None for all (whose index counts in the old order)."""
    data = call.args[0]
    if not layouts.is_last(data) or call.attrs.axis is None:
        return None
    rank = len(shape_of(data))
    axis = int(call.attrs.axis) % rank
    made = with_attrs(call, [layouts.last(data)], axis=last_axis_of(axis, rank))
    if bool(call.attrs.keepdims):
        return layouts.made_last(made)
    kept = [a for a in to_last_axes(rank) if a != axis]
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
    rest = [layouts.first(a) if _is_tensor(a) else a for a in call.args[1:]]
    return layouts.made_last(with_attrs(call, [layouts.last(data), *rest], axis=axis))


def _normalization(layouts: Layouts, call: Expr) -> Tensor | None:
    """group_norm and instance_norm: `channel_axis` and `axes`."""
    data = call.args[0]
    if not layouts.is_last(data):
        return None
    rank = len(shape_of(data))
    axes = sorted(last_axis_of(int(a), rank) for a in call.attrs.axes)
    channel = last_axis_of(int(call.attrs.channel_axis), rank)
    rest = [layouts.first(a) if _is_tensor(a) else a for a in call.args[1:]]
    args = [layouts.last(data), *rest]
    return layouts.made_last(with_attrs(call, args, axes=axes, channel_axis=channel))


def _concat(layouts: Layouts, call: Expr) -> Tensor | None:
    parts = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
    if not any(layouts.is_last(p) for p in parts):
        return None
    axis = last_axis_of(int(call.attrs.axis or 0), len(shape_of(call)))
    return layouts.made_last(relax.op.concat([layouts.last(p) for p in parts], axis))


def _split(layouts: Layouts, call: Expr) -> list[Tensor] | None:
    data = call.args[0]
    if not layouts.is_last(data):
        return None
    axis = last_axis_of(int(call.attrs.axis), len(shape_of(data)))
    made = layouts.emit(with_attrs(call, [layouts.last(data)], axis=axis), layouts.name)
    count = len(made.ty.fields)
    return [Tensor(last=layouts.emit(relax.TupleGetItem(made, i), None)) for i in range(count)]


def _strided_slice(layouts: Layouts, call: Expr) -> Tensor | None:
    data = call.args[0]
    if not layouts.is_last(data):
        return None
    rank = len(shape_of(data))
    axes = relax.Tuple([relax.prim_value(last_axis_of(int(a), rank)) for a in call.args[1].fields])
    return layouts.made_last(_with_args(call, [layouts.last(data), axes, *call.args[2:]]))


def _pad(layouts: Layouts, call: Expr) -> Tensor | None:
    data = call.args[0]
    if not layouts.is_last(data):
        return None
    widths = [int(w) for w in call.attrs.pad_width]
    moved = [widths[2 * a + i] for a in to_last_axes(len(shape_of(data))) for i in (0, 1)]
    return layouts.made_last(with_attrs(call, [layouts.last(data)], pad_width=moved))


def _permute_dims(layouts: Layouts, call: Expr) -> Tensor | None:
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


def _reshape(layouts: Layouts, call: Expr) -> Tensor | None:
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


_ELEMENTWISE = (
    "relax.abs",
    "relax.acos",
    "relax.acosh",
    "relax.add",
    "relax.asin",
    "relax.asinh",
    "relax.astype",
    "relax.atan",
    "relax.atanh",
    "relax.bitwise_and",
    "relax.bitwise_not",
    "relax.bitwise_or",
    "relax.bitwise_xor",
    "relax.ceil",
    "relax.clip",
    "relax.cos",
    "relax.cosh",
    "relax.divide",
    "relax.equal",
    "relax.erf",
    "relax.exp",
    "relax.floor",
    "relax.floor_divide",
    "relax.floor_mod",
    "relax.greater",
    "relax.greater_equal",
    "relax.isfinite",
    "relax.isinf",
    "relax.isnan",
    "relax.left_shift",
    "relax.less",
    "relax.less_equal",
    "relax.log",
    "relax.logical_and",
    "relax.logical_not",
    "relax.logical_or",
    "relax.logical_xor",
    "relax.maximum",
    "relax.minimum",
    "relax.mod",
    "relax.multiply",
    "relax.negative",
    "relax.nn.gelu",
    "relax.nn.gelu_tanh",
    "relax.nn.leakyrelu",
    "relax.nn.relu",
    "relax.nn.relu6",
    "relax.nn.selu",
    "relax.nn.silu",
    "relax.nn.softplus",
    "relax.not_equal",
    "relax.power",
    "relax.right_shift",
    "relax.round",
    "relax.rsqrt",
    "relax.sigmoid",
    "relax.sign",
    "relax.sin",
    "relax.sinh",
    "relax.sqrt",
    "relax.square",
    "relax.subtract",
    "relax.tan",
    "relax.tanh",
    "relax.trunc",
    "relax.where",
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    "relax.argmax": _arg_reduction,
    "relax.argmin": _arg_reduction,
    "relax.concat": _concat,
    "relax.dequantize": _one_axis,
    "relax.image.resize2d": _resize2d,
    "relax.max": _reduction,
    "relax.mean": _reduction,
    "relax.min": _reduction,
    "relax.nn.adaptive_avg_pool2d": _pool,
    "relax.nn.adaptive_max_pool2d": _pool,
    "relax.nn.avg_pool2d": _pool,
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv2d_transpose": _conv2d_transpose,
    "relax.nn.group_norm": _normalization,
    "relax.nn.instance_norm": _normalization,
    "relax.nn.log_softmax": _one_axis,
    "relax.nn.max_pool2d": _pool,
    "relax.nn.pad": _pad,
    "relax.nn.prelu": _one_axis,
    "relax.nn.softmax": _one_axis,
    "relax.permute_dims": _permute_dims,
    "relax.prod": _reduction,
    "relax.quantize": _one_axis,
    "relax.reshape": _reshape,
    "relax.split": _split,
    "relax.std": _reduction,
    "relax.strided_slice": _strided_slice,
    "relax.sum": _reduction,
    "relax.variance": _reduction,
}
