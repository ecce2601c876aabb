"""Convolutions and products as loop nests for GPUs: operands read in place, weights by column."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te

from lepton_tvm.ir.graph import Array, Expr, constant, dtype_of, shape_of
from lepton_tvm.ir.precisions import BFLOAT16, FLOAT32, INT8, suffix_of
from lepton_tvm.kernels.gemm import GemmShape, Window, gemm, pack_gemm_weight, window_reader
from lepton_tvm.kernels.indices import unflatten
from lepton_tvm.kernels.window_conv import WindowConv, window_conv
from lepton_tvm.passes.lower.kernels.views import View, view_of

__all__ = ["gpu_batch_matmul", "gpu_conv2d", "gpu_matmul"]

# Depth is filled up to a multiple of this many elements, so that lines of packed weights start at
# addresses from which 16 bytes are loaded at once.
_STEP = {INT8.weight: 16, BFLOAT16.weight: 16, FLOAT32.weight: 4}


def gpu_conv2d(
    builder: relax.BlockBuilder, x: Expr, weight: Array, window: Window, groups: int
) -> Expr:
    """An NHWC convolution with constant HWIO weights.

    An implicit product over filter and channels; with groups, plain sums.
    """
    channels = int(weight.shape[3])
    if groups > 1:
        shape = WindowConv(window, channels, groups)
        one_each = shape.depth == 1 and channels == groups
        name = "depthwise_conv2d" if one_each else "conv2d"
        return builder.call_te(
            lambda a, b: window_conv(a, b, shape),
            x,
            constant(weight),
            primfunc_name_hint=name + suffix_of(dtype_of(x)),
        )
    flat = weight.reshape(-1, channels)
    read = lambda a: window_reader(a, window)  # noqa: E731
    return _emit(builder, x, flat, window.out, read, "conv2d")


def gpu_matmul(
    builder: relax.BlockBuilder, x: Expr, weight: Array, leading: tuple[int, ...]
) -> Expr:
    """[*leading, depth] times constant [depth, columns]."""

    def read(a: te.Tensor) -> Any:
        return lambda _, row, k: a[(*unflatten(row, leading), k)]

    return _emit(builder, x, weight, leading, read, "matmul")


def gpu_batch_matmul(
    builder: relax.BlockBuilder,
    call: Expr,
    lookup: Callable[[Expr], Expr | None],
    permutation: Expr | None,
    readers: Callable[[View, tuple[int, ...]], Callable[[te.Tensor, Sequence[Any]], Any]],
) -> Expr:
    """`relax.matmul` of two activations in float32, and the `permute_dims` of its result.

    `readers` makes a function that reads a view at batch and matrix indices.
    """
    left, right = (shape_of(arg) for arg in call.args)
    (rows, depth), columns, plain = left[-2:], right[-1], shape_of(call)
    axes = list(range(len(plain)))
    if permutation is not None:
        axes = [int(a) % len(plain) for a in permutation.attrs.axes]
    shape = GemmShape(
        plain[:-2], (rows,), rows, columns, depth, FLOAT32.weight, _STEP[FLOAT32.weight],
        tuple(axes),
    )  # fmt: skip
    x, y = (view_of(arg, lookup) for arg in call.args)
    read_x, read_y = readers(x, left), readers(y, right)

    def kernel(a: te.Tensor, b: te.Tensor) -> te.Tensor:
        return gemm(
            shape,
            lambda batch, m, k: read_x(a, [*batch, m, k]),
            lambda batch, n, k: read_y(b, [*batch, k, n]),
            columns_padded=False,
        )

    return builder.call_te(kernel, x.source, y.source, primfunc_name_hint="batch_matmul")


def _emit(
    builder: relax.BlockBuilder,
    x: Expr,
    weight: Array,
    leading: tuple[int, ...],
    read: Callable[[te.Tensor], Any],
    name: str,
) -> Expr:
    depth, columns = weight.shape
    operand = str(weight.dtype)
    rows = max(1, math.prod(leading))
    shape = GemmShape((), leading, rows, columns, depth, operand, _STEP[operand])
    packed, correction = pack_gemm_weight(weight, shape)

    def kernel(a: te.Tensor, w: te.Tensor, *more: te.Tensor) -> te.Tensor:
        return gemm(shape, read(a), lambda _, n, k: w[n, k], *more)

    extra = [] if correction is None else [constant(correction)]
    return builder.call_te(
        kernel, x, constant(packed), *extra, primfunc_name_hint=name + suffix_of(dtype_of(x))
    )
