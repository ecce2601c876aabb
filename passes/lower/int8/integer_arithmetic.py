"""Integer building blocks of the lowering: uint8 tensors, int32 accumulators, epilogues."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from lepton_tvm.ir import graph as g
from lepton_tvm.passes.quantize.qparams import (
    QParams,
    fits_int32,
    integer_bias,
    requantize_bounds,
)

__all__ = ["Accumulator", "Quantized", "Weight", "average", "convolve", "multiply_matrix"]


@dataclass(frozen=True)
class Quantized:
    """A uint8 tensor and what its values mean."""

    expr: g.Expr
    params: QParams

    def to_float(self, builder: g.GraphBuilder) -> g.Expr:
        """Emit a dequantize; one for each reader, so that it fuses into the reader's kernel."""
        scale, zero = _constants(self.params)
        return builder.emit(
            relax.op.dequantize(self.expr, scale, zero, axis=-1, out_dtype="float32")
        )

    def to_params(self, builder: g.GraphBuilder, params: QParams) -> Quantized:
        """The same tensor in other units: itself when they are equal."""
        if params == self.params:
            return self
        return quantized(builder, self.to_float(builder), params)


@dataclass(frozen=True)
class Weight:
    """int8 weights with one float32 scale per output channel."""

    values: g.Array
    scales: g.Array
    axis: int

    def to_float(self) -> g.Expr:
        """The float32 constant that the weights stand for."""
        shape = [1] * self.values.ndim
        shape[self.axis] = -1
        return g.constant(self.values.astype(np.float32) * self.scales.reshape(shape))


@dataclass(frozen=True)
class Accumulator:
    """An int32 tensor that stands for `clip((expr + bias) * scales + float_bias, low, high)`.

    `scales` (float32), `bias` (int64) and `magnitudes` (sums of |w|) have one value per channel of
    the last axis, or one for all. `rank_one` writes constants as [K] (dense) and not [1, .., K].
    """

    expr: g.Expr
    scales: g.Array
    bias: g.Array
    magnitudes: g.Array
    float_bias: g.Array | None = None
    low: float | None = None
    high: float | None = None
    rank_one: bool = False

    @property
    def is_clipped(self) -> bool:
        """Whether a relu or clip was absorbed already; nothing can be added after it."""
        return self.low is not None or self.high is not None

    def with_bias(self, bias: g.Array) -> tuple[Accumulator, bool]:
        """Add a real bias [K]: in int32 when that cannot overflow, else in float (False)."""
        units = integer_bias(bias, self.scales, np.zeros_like(self.bias), 0) + self.bias
        if fits_int32(units, self.magnitudes):
            return dataclasses.replace(self, bias=units), True
        sofar = 0.0 if self.float_bias is None else self.float_bias
        total = (sofar + bias.astype(np.float32)).astype(np.float32)
        return dataclasses.replace(self, float_bias=total), False

    def clipped(self, low: float, high: float) -> Accumulator:
        """Absorb `clip(x, low, high)`."""
        low = low if self.low is None else min(max(self.low, low), high)
        high = high if self.high is None else max(min(self.high, high), low)
        return dataclasses.replace(self, low=low, high=high)

    def to_float(self, builder: g.GraphBuilder) -> g.Expr:
        """Emit the float32 value."""
        value = builder.emit(relax.op.multiply(self._biased(builder), self._const(self.scales)))
        if self.float_bias is not None:
            value = builder.emit(relax.op.add(value, self._const(self.float_bias)))
        if not self.is_clipped:
            return value
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        if low == 0.0 and high == np.inf:
            return builder.emit(relax.op.nn.relu(value))
        return builder.emit(relax.op.clip(value, float(low), float(high)))

    def to_quantized(self, builder: g.GraphBuilder, params: QParams) -> Quantized:
        """Emit the requantization to uint8; relu and clip become its bounds."""
        inverse = 1.0 / np.float64(params.scale)
        multiplier = (self.scales.astype(np.float64) * inverse).astype(np.float32)
        value = builder.emit(relax.op.multiply(self._biased(builder), self._const(multiplier)))
        if self.float_bias is not None:
            shift = (self.float_bias.astype(np.float64) * inverse).astype(np.float32)
            value = builder.emit(relax.op.add(value, self._const(shift)))
        low, high = requantize_bounds(params, self.low, self.high)
        value = builder.emit(relax.op.round(value))
        value = builder.emit(relax.op.clip(value, float(low), float(high)))
        value = builder.emit(relax.op.astype(value, "int32"))
        if params.zero_point:
            value = builder.emit(
                relax.op.add(value, g.constant(np.array(params.zero_point, np.int32)))
            )
        return Quantized(builder.emit(relax.op.astype(value, "uint8")), params)

    def _biased(self, builder: g.GraphBuilder) -> g.Expr:
        value = self.expr
        if self.bias.any():
            value = builder.emit(relax.op.add(value, self._const(self.bias.astype(np.int32))))
        return builder.emit(relax.op.astype(value, "float32"))

    def _const(self, array: g.Array) -> g.Expr:
        rank = 1 if self.rank_one else len(g.shape_of(self.expr))
        return g.constant(array.reshape((1,) * (rank - 1) + (-1,)))


def quantized(builder: g.GraphBuilder, value: g.Expr, params: QParams) -> Quantized:
    """Emit a quantize of a float32 value."""
    scale, zero = _constants(params)
    q = builder.emit(relax.op.quantize(value, scale, zero, axis=-1, out_dtype="uint8"))
    return Quantized(q, params)


def convolve(
    builder: g.GraphBuilder, data: Quantized, weight: Weight, call: g.Expr, name: str
) -> Accumulator | str:
    """Emit conv2d in int32 (NHWC, HWIO); the reason when its sums could overflow."""
    sums = weight.values.astype(np.int64).sum(axis=(0, 1, 2))
    made = _accumulator(data, weight, sums, np.abs(weight.values.astype(np.int64)).sum((0, 1, 2)))
    if isinstance(made, str):
        return made
    attrs = call.attrs
    expr, padding = _padded(builder, data, [int(p) for p in attrs.padding])
    conv = relax.op.nn.conv2d(
        expr,
        g.constant(weight.values),
        strides=[int(s) for s in attrs.strides],
        padding=padding,
        dilation=[int(d) for d in attrs.dilation],
        groups=int(attrs.groups),
        data_layout="NHWC",
        kernel_layout="HWIO",
        out_layout="NHWC",
        out_dtype="int32",
    )
    return dataclasses.replace(made, expr=builder.emit(conv, name))


def multiply_matrix(
    builder: g.GraphBuilder, data: Quantized, weight: Weight, name: str
) -> Accumulator | str:
    """Emit a matmul in int32; the reason when its sums could overflow."""
    sums = weight.values.astype(np.int64).sum(axis=0)
    made = _accumulator(data, weight, sums, np.abs(weight.values.astype(np.int64)).sum(axis=0))
    if isinstance(made, str):
        return made
    expr = relax.op.matmul(data.expr, g.constant(weight.values), out_dtype="int32")
    return dataclasses.replace(made, expr=builder.emit(expr, name), rank_one=True)


def average(builder: g.GraphBuilder, data: Quantized, call: g.Expr, name: str) -> Accumulator:
    """Emit an average pool or spatial mean as int32 sums of the uint8 values.

    Windows are summed by a depthwise convolution with weights of one, so that they use its
    schedule; whole pictures by a sum.
    """
    height, width, channels = g.shape_of(call.args[0])[1:]
    if g.op_name(call) == "relax.nn.avg_pool2d":
        kh, kw = (int(k) for k in call.attrs.pool_size)
        expr, padding = _padded(builder, data, [int(p) for p in call.attrs.padding])
        ones = g.constant(np.ones((kh, kw, 1, channels), np.int8))
        total = relax.op.nn.conv2d(
            expr,
            ones,
            strides=[int(s) for s in call.attrs.strides],
            padding=padding,
            dilation=[int(d) for d in call.attrs.dilation],
            groups=channels,
            data_layout="NHWC",
            kernel_layout="HWIO",
            out_layout="NHWC",
            out_dtype="int32",
        )
    else:
        kh, kw = height, width
        keep = g.op_name(call) != "relax.mean" or bool(call.attrs.keepdims)
        wide = builder.emit(relax.op.astype(data.expr, "int32"))
        total = relax.op.sum(wide, axis=[1, 2], keepdims=keep)
    count = kh * kw
    return Accumulator(
        expr=builder.emit(total),
        scales=np.array([data.params.scale / count], np.float32),
        bias=np.array([-data.params.zero_point * count], np.int64),
        magnitudes=np.array([count], np.int64),
    )


def _accumulator(
    data: Quantized, weight: Weight, sums: g.Array, magnitudes: g.Array
) -> Accumulator | str:
    scales = (np.float64(data.params.scale) * weight.scales.astype(np.float64)).astype(np.float32)
    bias = integer_bias(None, scales, sums, data.params.zero_point)
    if not fits_int32(bias, magnitudes):
        return "its sums could overflow int32"
    return Accumulator(data.expr, scales, bias, magnitudes)


def _padded(
    builder: g.GraphBuilder, data: Quantized, padding: list[int]
) -> tuple[g.Expr, list[int]]:
    """Pad with the zero point where that is not 0; returns the padding left to the convolution."""
    if data.params.zero_point == 0 or not any(padding):
        return data.expr, padding
    top, left, bottom, right = padding
    widths = [0, 0, top, bottom, left, right, 0, 0]
    padded = relax.op.nn.pad(data.expr, widths, "constant", data.params.zero_point)
    return builder.emit(padded), [0, 0, 0, 0]


def _constants(params: QParams) -> tuple[g.Expr, g.Expr]:
    scale, zero = np.array(params.scale, np.float32), np.array(params.zero_point, np.uint8)
    return g.constant(scale), g.constant(zero)


def is_dequantize(expr: g.Expr) -> bool:
    """Whether `expr` is a call of relax.dequantize."""
    return isinstance(expr, tvm.ir.Call) and g.op_name(expr) == "relax.dequantize"
