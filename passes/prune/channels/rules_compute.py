"""Channel labels through arithmetic: elementwise, convolution, matrix product, pooling, norms."""

from __future__ import annotations

import numpy as np

from lepton_tvm.ir.graph import Expr, is_constant, op_name, shape_of
from lepton_tvm.passes.prune.channels.carry import ints, is_tensor, labels_of, rigid, unknown
from lepton_tvm.passes.prune.channels.labels import Axis, Flow, Labels, Weight

__all__ = ["conv", "elementwise", "matmul", "normalised", "prelu", "reduce", "spatial"]


def elementwise(flow: Flow, var: Expr, call: Expr) -> Labels:
    """Elementwise: broadcast from the right; constants take the labels of the result."""
    out = shape_of(call)
    tensors = [(i, a) for i, a in enumerate(call.args) if is_tensor(a)]
    result: list[Axis] = []
    for position, size in enumerate(out):
        met: list[Axis] = []
        for _, arg in tensors:
            axis = position - (len(out) - len(shape_of(arg)))
            if axis >= 0 and shape_of(arg)[axis] == size and not is_constant(arg):
                met.append(labels_of(flow, arg)[axis])
        joined = met[0] if met and size > 1 else None
        for other in met[1:]:
            reason = f"meets an axis that cannot shrink in '{var.name}' ({op_name(call)})"
            joined = flow.atoms.meet(joined, other, reason)
        result.append(joined)
    for index, arg in tensors:
        if is_constant(arg):
            shape = shape_of(arg)
            tail = result[len(out) - len(shape) :]
            flow.constants[var, index] = tuple(
                t if s > 1 else None for t, s in zip(tail, shape, strict=True)
            )
    return tuple(result)


def prelu(flow: Flow, var: Expr, call: Expr) -> Labels:
    """PReLU: elementwise, with one slope per channel."""
    data, slopes = labels_of(flow, call.args[0]), call.args[1]
    if not is_constant(slopes) or len(shape_of(slopes)) != 1:
        return unknown(flow, var, call)
    if shape_of(slopes)[0] > 1:
        flow.constants[var, 1] = (data[int(call.attrs.axis) % len(data)],)
    return data


def conv(flow: Flow, var: Expr, call: Expr) -> Labels:
    """Convolution: dense ones end the input's atoms and make new ones, depthwise ones pass them.

    A grouped one must lose the same positions in every group, so its atoms repeat per group.
    """
    if not is_constant(call.args[1]):
        return unknown(flow, var, call)
    attrs, kernel = call.attrs, shape_of(call.args[1])
    transposed = op_name(call).endswith("_transpose")
    layout, groups = str(attrs.kernel_layout), int(attrs.groups)
    made_axis, read_axis = layout.index("O"), layout.index("I")
    data = labels_of(flow, call.args[0])
    channel = str(attrs.data_layout).index("C")
    read, channels = data[channel], shape_of(call.args[0])[channel]
    made: Axis = None
    if transposed and groups > 1:
        flow.atoms.fix(read, f"'{var.name}' is a grouped transposed convolution")
        return rigid(call)
    if groups == channels and groups > 1:  # depthwise, with a channel multiplier
        out = None if read is None else np.repeat(read, kernel[made_axis] // channels)
        axes = tuple(out if i == made_axis else None for i in range(len(kernel)))
        weight = Weight(var, op_name(call), None, made_axis, out, made_axis)
    else:
        if groups > 1 and read is not None:  # the same positions leave every group
            rows = read.reshape(groups, -1)
            for row in rows[1:]:
                flow.atoms.join(rows[0], row)
            read = rows[0]
        fresh = flow.atoms.fresh(kernel[made_axis] // groups)
        made = np.tile(fresh, groups)
        if made.size == 1:
            flow.atoms.fix(made, f"'{var.name}' makes a single channel")
        out = made
        axes = tuple(
            made if i == made_axis else read if i == read_axis else None for i in range(len(kernel))
        )
        weight = Weight(var, op_name(call), made, made_axis, read, read_axis)
    flow.constants[var, 1] = axes
    flow.weights.append(weight)
    out_channel = str(attrs.out_layout or attrs.data_layout).index("C")
    return tuple(out if i == out_channel else None for i in range(len(kernel)))


def matmul(flow: Flow, var: Expr, call: Expr) -> Labels:
    """Matrix product: by a constant [K, N] as a dense layer; of two activations, K is shared."""
    left, right = call.args
    if len(shape_of(left)) < 2 or len(shape_of(right)) < 2:
        return unknown(flow, var, call)
    a, b = labels_of(flow, left), labels_of(flow, right)
    if not is_constant(right) or len(b) != 2 or is_constant(left):
        why = f"is contracted in '{var.name}' with an axis that cannot shrink"
        flow.atoms.meet(a[-1], b[-2], why)
        batch: list[Axis] = [None] * (len(shape_of(call)) - 2)
        for side in (a, b):
            for axis in side[:-2]:
                flow.atoms.fix(axis, f"is a batch axis of '{var.name}'")
        return (*batch, a[-2], b[-1])
    made = flow.atoms.fresh(shape_of(right)[1])
    if made.size == 1:
        flow.atoms.fix(made, f"'{var.name}' makes a single channel")
    flow.constants[var, 1] = (a[-1], made)
    flow.weights.append(Weight(var, op_name(call), made, 1, a[-1], 0))
    return (*a[:-1], made)


def spatial(flow: Flow, var: Expr, call: Expr) -> Labels:
    """Pooling and resizing: channels pass, anything else on a spatial axis stays."""
    layout = str(call.attrs.layout)
    out_layout = str(getattr(call.attrs, "out_layout", "") or layout)
    data = labels_of(flow, call.args[0])
    for letter, axis in zip(layout, data, strict=True):
        if letter != "C":
            flow.atoms.fix(axis, f"is a spatial axis of '{var.name}'")
    return tuple(data[layout.index("C")] if letter == "C" else None for letter in out_layout)


def reduce(flow: Flow, var: Expr, call: Expr) -> Labels:
    """Mean, sum and the like: a reduced axis must stay whole, the others pass."""
    data = labels_of(flow, call.args[0])
    given = call.attrs.axis
    axes = range(len(data)) if given is None else [a % len(data) for a in ints(given)]
    for axis in axes:
        flow.atoms.fix(data[axis], f"is reduced over by '{var.name}' ({op_name(call)})")
    if call.attrs.keepdims:
        return tuple(None if i in axes else a for i, a in enumerate(data))
    return tuple(a for i, a in enumerate(data) if i not in axes)


def normalised(flow: Flow, var: Expr, call: Expr) -> Labels:
    """Softmax, layer norm: a normalised axis must stay whole, the others pass."""
    data = labels_of(flow, call.args[0])
    given = call.attrs.axes if hasattr(call.attrs, "axes") else [call.attrs.axis]
    axes = [a % len(data) for a in ints(given)]
    for axis in axes:
        flow.atoms.fix(data[axis], f"is normalised over by '{var.name}' ({op_name(call)})")
    return tuple(None if i in axes else a for i, a in enumerate(data))
