"""Convolutions and matmuls as linear maps: scale outputs, scale inputs, shift inputs.

All work in any layout the op states, so they serve before and after `ToNHWC`.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from lepton_tvm.ir.graph import (
    Array,
    Expr,
    const_array,
    constant,
    dtype_of,
    op_name,
    shape_of,
    with_attrs,
)
from lepton_tvm.ir.ops import named
from lepton_tvm.passes.base import Refused

__all__ = [
    "LINEAR_OPS",
    "NO_INPUT_SCALE",
    "bias_constant",
    "channel_axis",
    "input_channel_axis",
    "is_padded",
    "per_channel",
    "scale_inputs",
    "scale_outputs",
    "shift_inputs",
    "with_data",
]

#: What an op answers that cannot take a scale or a shift of its input.
NO_INPUT_SCALE = Refused("cannot take a scale and a shift")

LINEAR_OPS = named("linear", True)


def channel_axis(call: Expr) -> int:
    """The axis of output channels in the result of a conv or matmul."""
    if op_name(call) == "relax.matmul":
        return len(shape_of(call)) - 1
    return int((call.attrs.out_layout or call.attrs.data_layout).index("C"))


def input_channel_axis(call: Expr) -> int:
    """The axis of input channels in the data of a conv or matmul."""
    if op_name(call) == "relax.matmul":
        return len(shape_of(call.args[0])) - 1
    return int(call.attrs.data_layout.index("C"))


def is_padded(call: Expr) -> bool:
    """True when a convolution reads zeros beyond the border."""
    return op_name(call) != "relax.matmul" and any(int(p) for p in call.attrs.padding)


def per_channel(array: Array, shape: tuple[int, ...], axis: int) -> Array | None:
    """A constant that broadcasts to `shape` and varies along `axis` only, as a vector, or None.

    A constant that would enlarge `shape` gives None; a scalar is repeated.
    """
    if array.ndim > len(shape):
        return None
    full = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    for i, (have, want) in enumerate(zip(full.shape, shape, strict=True)):
        if have != 1 and (i != axis or have != want):
            return None
    return np.broadcast_to(full.reshape(-1), (shape[axis],))


def scale_outputs(call: Expr, scale: Array) -> Expr | None:
    """The same op with output channel k multiplied by `scale[k]`; None without constant weight."""
    weight = const_array(call.args[1])
    if weight is None:
        return None
    wide = weight.astype(np.float64)
    if op_name(call) == "relax.matmul":
        if weight.ndim != 2:
            return None
        wide = wide * scale
    elif op_name(call) == "relax.nn.conv2d_transpose":
        wide = _scale_transposed(wide, call.attrs.kernel_layout, int(call.attrs.groups), scale)
    else:
        shape = [1] * weight.ndim
        shape[call.attrs.kernel_layout.index("O")] = -1
        wide = wide * scale.reshape(shape)
    return with_weight(call, wide.astype(weight.dtype))


def scale_inputs(call: Expr, scale: Array) -> Expr | Refused:
    """op(x * scale) as op'(x): exact also with zero padding.

    `scale` has one factor per input channel. Does not handle: conv2d_transpose.
    """
    weight = const_array(call.args[1])
    factors = _input_factors(call, weight, scale)
    if weight is None or factors is None:
        return NO_INPUT_SCALE
    return with_weight(call, (weight.astype(np.float64) * factors).astype(weight.dtype))


def shift_inputs(call: Expr, shift: Array) -> Array | Refused:
    """What op(x + shift) adds to op(x), one value per output channel; refused for a padded conv.

    `shift` has one value per input channel. Padding zeros are not shifted, so with padding the
    difference is not constant over the picture. Does not handle: conv2d_transpose.
    """
    if is_padded(call):
        return Refused("pads with zeros, which must not be shifted")
    weight = const_array(call.args[1])
    factors = _input_factors(call, weight, shift)
    if weight is None or factors is None:
        return NO_INPUT_SCALE
    out = 1 if op_name(call) == "relax.matmul" else call.attrs.kernel_layout.index("O")
    others = tuple(i for i in range(weight.ndim) if i != out)
    total: Array = (weight.astype(np.float64) * factors).sum(axis=others)
    return total


def bias_constant(call: Expr, bias: Array) -> Expr:
    """One value per output channel as canonical bias: [1,1,1,K] (or [1,K,1,1]), [N] for matmul."""
    axis = channel_axis(call)
    shape = [1] * len(shape_of(call)) if op_name(call) != "relax.matmul" else [1]
    shape[min(axis, len(shape) - 1)] = -1
    return constant(bias.reshape(shape), dtype_of(call))


def with_data(call: Expr, data: Expr) -> Expr:
    """`call` on other data."""
    if op_name(call) == "relax.matmul":
        return relax.op.matmul(data, call.args[1])
    return with_attrs(call, [data, call.args[1]])


def with_weight(call: Expr, weight: Array) -> Expr:
    """`call` with another weight constant."""
    args = [call.args[0], constant(weight)]
    return relax.op.matmul(*args) if op_name(call) == "relax.matmul" else with_attrs(call, args)


def _input_factors(call: Expr, weight: Array | None, values: Array) -> Array | None:
    """`values` per input channel, shaped to broadcast against the weight."""
    if weight is None:
        return None
    if op_name(call) == "relax.matmul":
        return values[:, None] if weight.ndim == 2 else None
    if op_name(call) != "relax.nn.conv2d":
        return None
    layout, groups = call.attrs.kernel_layout, int(call.attrs.groups)
    axis_out, axis_in = layout.index("O"), layout.index("I")
    # output channel k of group g reads the input channels of group g only
    table = values.reshape(groups, -1).repeat(weight.shape[axis_out] // groups, axis=0)
    shape = [1] * weight.ndim
    shape[axis_out], shape[axis_in] = table.shape
    return (table if axis_out < axis_in else table.T).reshape(shape)


def _scale_transposed(weight: Array, layout: str, groups: int, scale: Array) -> Array:
    """Transposed conv: I holds all groups one after the other, O counts within a group."""
    axis_in, axis_out = layout.index("I"), layout.index("O")
    table = scale.reshape(groups, -1).repeat(weight.shape[axis_in] // groups, axis=0)
    shape = [1] * weight.ndim
    shape[axis_in], shape[axis_out] = table.shape
    return weight * (table if axis_in < axis_out else table.T).reshape(shape)
