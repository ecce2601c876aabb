"""A transposed convolution as a plain one that computes all phases of a pixel at once.

With stride s, output s*j + r depends on inputs j, j-1, ... through every s-th weight from r on: one
small convolution per phase r ("sub-pixel convolution", Shi et al. 2016, arXiv:1609.07009). All
phases together are one convolution with s*s times the channels, followed by moving the phases from
the channels to their pixels. No multiplication by inserted zeros, and only NHWC conv2d is needed.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from tvm import relax

from lepton_tvm.errors import CompileError
from lepton_tvm.ir.graph import Array, Expr, const_array, constant, shape_of
from lepton_tvm.passes.graph.layout.layout_tensors import Phases

__all__ = ["phases_of_transposed_conv"]


def phases_of_transposed_conv(call: Expr, data: Expr) -> Phases:
    """The phases of `relax.nn.conv2d_transpose` (NCHW, constant IOHW weight) on NHWC `data`.

    `call` gives weight, strides, padding, output padding, dilation and groups; any values of them.
    """
    weight = const_array(call.args[1])
    if weight is None:
        raise CompileError("a transposed convolution needs a constant weight here")
    attrs = call.attrs
    groups = int(attrs.groups)
    stride = [int(s) for s in attrs.strides]
    weight = _dilate(weight, [int(d) for d in attrs.dilation])
    taps = [-(-size // s) for size, s in zip(weight.shape[2:], stride, strict=True)]
    kernel = _phase_kernel(weight, stride, taps, groups)
    n, height, width, _ = shape_of(data)
    channels = weight.shape[1] * groups
    out = shape_of(call)
    top, left = int(attrs.padding[0]), int(attrs.padding[1])
    rows = max(height + taps[0] - 1, -(-(top + out[2]) // stride[0]))
    columns = max(width + taps[1] - 1, -(-(left + out[3]) // stride[1]))
    conv = relax.op.nn.conv2d(
        data,
        constant(kernel),
        padding=[taps[0] - 1, taps[1] - 1, rows - height, columns - width],
        groups=groups,
        data_layout="NHWC",
        kernel_layout="HWIO",
        out_layout="NHWC",
    )
    window = (top, left, out[2], out[3])
    spread = partial(
        _spread, (n, rows, columns), (stride[0], stride[1]), channels, groups > 1, window
    )
    return Phases(conv, spread, partial(_tile, stride[0] * stride[1], groups > 1))


def _dilate(weight: Array, dilation: list[int]) -> Array:
    if dilation == [1, 1]:
        return weight
    sizes = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    wide = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
    wide[:, :, :: dilation[0], :: dilation[1]] = weight
    return wide


def _phase_kernel(weight: Array, stride: list[int], taps: list[int], groups: int) -> Array:
    """IOHW [I, O/g, KH, KW] -> HWIO [TH, TW, I/g, all phases of all channels], taps reversed."""
    inputs, outputs, kh, kw = weight.shape
    (sh, sw), (th, tw) = stride, taps
    full = np.zeros((inputs, outputs, th * sh, tw * sw), weight.dtype)
    full[:, :, :kh, :kw] = weight
    parts = full.reshape(groups, inputs // groups, outputs, th, sh, tw, sw)[:, :, :, ::-1, :, ::-1]
    # a grouped conv needs the channels of a group together, so phases run fastest there;
    # otherwise channels run fastest, so that spreading copies whole rows of channels
    order = (3, 5, 1, 0, 2, 4, 6) if groups > 1 else (3, 5, 1, 4, 6, 0, 2)
    return np.ascontiguousarray(parts.transpose(order).reshape(th, tw, inputs // groups, -1))


def _tile(phases: int, channel_major: bool, vector: Array) -> Expr:
    tiled = np.repeat(vector, phases) if channel_major else np.tile(vector, phases)
    return constant(tiled.reshape(1, 1, 1, -1))


def _spread(
    grid: tuple[int, int, int],
    stride: tuple[int, int],
    channels: int,
    channel_major: bool,
    window: tuple[int, int, int, int],
    data: Expr,
) -> Expr:
    """Move phases from channels to pixels, then cut to the output window."""
    (n, height, width), (sh, sw) = grid, stride
    made = data
    if (sh, sw) != (1, 1):
        split = (channels, sh, sw) if channel_major else (sh, sw, channels)
        axes = [0, 1, 4, 2, 5, 3] if channel_major else [0, 1, 3, 2, 4, 5]
        made = relax.op.permute_dims(relax.op.reshape(data, (n, height, width, *split)), axes)
        made = relax.op.reshape(made, (n, height * sh, width * sw, channels))
    top, left, out_height, out_width = window
    if (top, left, out_height, out_width) == (0, 0, height * sh, width * sw):
        return made
    end = [top + out_height, left + out_width]
    return relax.op.strided_slice(made, [1, 2], [top, left], end, [1, 1])
