"""Pooling and averages of bfloat16: narrow tensors in and out, arithmetic that is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx, topi

from lepton_tvm.ir.bfloat16 import bits, from_bits, narrowed, widened
from lepton_tvm.ir.graph import Expr, shape_of

__all__ = ["average_pool", "cast", "has_unit", "max_pool", "mean"]


def has_unit() -> bool:
    """Whether the target that is being compiled for has bfloat16 instructions."""
    target = tvm.target.Target.current(allow_none=True)
    if target is None or "mattr" not in target.attrs:
        return False
    return "+avx512bf16" in [str(a) for a in target.attrs["mattr"]]


def cast(bb: relax.BlockBuilder, call: Expr, to_bfloat16: bool) -> Expr:
    """Rounding to bfloat16 by the target's instruction, or widening by a shift."""
    change = narrowed if to_bfloat16 else widened
    return bb.call_te(
        lambda x: te.compute(x.shape, lambda *i: change(x[i]), name="cast"),
        call.args[0],
        primfunc_name_hint="cast",
    )


def mean(bb: relax.BlockBuilder, call: Expr) -> Expr:
    """The mean, summed in float32 and rounded once."""
    shape = shape_of(call.args[0])
    axes = call.attrs.axis
    axis = list(range(len(shape))) if axes is None else [int(a) for a in axes]
    keep = bool(call.attrs.keepdims)
    inverse = tirx.const(1.0 / int(np.prod([shape[a] for a in axis])), "float32")

    def kernel(x: te.Tensor) -> te.Tensor:
        total = topi.sum(_wide(x), axis, keep)
        return te.compute(total.shape, lambda *i: narrowed(total[i] * inverse), name="mean")

    return bb.call_te(kernel, call.args[0], primfunc_name_hint="mean")


def average_pool(bb: relax.BlockBuilder, call: Expr) -> Expr:
    """`avg_pool2d` in float32, rounded once."""

    def kernel(x: te.Tensor) -> te.Tensor:
        pooled = _pool(_wide(x), call, "avg")
        return te.compute(pooled.shape, lambda *i: narrowed(pooled[i]), name="rounded")

    return bb.call_te(kernel, call.args[0], primfunc_name_hint="avg_pool2d")


def max_pool(bb: relax.BlockBuilder, call: Expr) -> Expr:
    """`max_pool2d` by comparing integers: negative values with flipped bits are ordered alike.

    A NaN counts as larger (or, with the sign set, smaller) than every number.
    """

    def ordered(value: Any) -> Any:
        sign = tirx.shift_right(value, tirx.const(15, "int16"))
        return tirx.bitwise_xor(value, tirx.bitwise_and(sign, tirx.const(0x7FFF, "int16")))

    def kernel(x: te.Tensor) -> te.Tensor:
        keys = te.compute(
            x.shape, lambda *i: ordered(tirx.reinterpret("int16", bits(x[i]))), name="ordered"
        )
        most = _pool(keys, call, "max")
        return te.compute(
            most.shape,
            lambda *i: from_bits(tirx.reinterpret("uint16", ordered(most[i]))),
            name="pooled",
        )

    return bb.call_te(kernel, call.args[0], primfunc_name_hint="max_pool2d")


def _wide(x: te.Tensor) -> te.Tensor:
    return te.compute(x.shape, lambda *i: widened(x[i]), name="wide")


def _pool(x: te.Tensor, call: Expr, kind: str) -> te.Tensor:
    attrs = call.attrs
    sizes = (attrs.pool_size, attrs.strides, attrs.dilation, attrs.padding)
    pool_size, strides, dilation, padding = ([int(v) for v in s] for s in sizes)
    return topi.nn.pool2d(
        x, pool_size, strides, dilation, padding, kind,
        bool(attrs.ceil_mode), str(attrs.layout), bool(attrs.count_include_pad),
    )  # fmt: skip
