"""The arithmetic of 8-bit quantization in NumPy: the reference for everything that is compiled.

Activations: `q = clip(rint(x * (1 / scale)) + zero_point, 0, 255)`, uint8, one scale per tensor,
0.0 exactly representable. Weights: `q = clip(rint(w / scale), -127, 127)`, int8, one scale per
output channel, zero point 0; in 7 bits -63 and 63. All float arithmetic is float32; `rint` rounds
halves to even.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "INT32_MAX",
    "PIXELS",
    "SCALE_MIN",
    "U8_MAX",
    "QParams",
    "activation_qparams",
    "dequantize",
    "fits_int32",
    "integer_bias",
    "quantize",
    "quantize_weight",
    "requantize",
    "requantize_bounds",
    "weight_scales",
]

Array = npt.NDArray[Any]

U8_MAX = 255
W_MAX = 127
INT32_MAX = 2**31 - 1
SCALE_MIN = 1e-12
_BIAS_MAX = 2**29  # leaves the accumulator three quarters of int32


@dataclass(frozen=True)
class QParams:
    """Scale (rounded to float32) and zero point (0..255) of one uint8 activation tensor."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", float(np.float32(self.scale)))

    @property
    def low(self) -> float:
        """The smallest real value that can be represented."""
        return -self.zero_point * self.scale

    @property
    def high(self) -> float:
        """The largest real value that can be represented."""
        return (U8_MAX - self.zero_point) * self.scale

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return {"scale": self.scale, "zero_point": self.zero_point}


#: What a uint8 picture that is cast to float means.
PIXELS = QParams(1.0, 0)


def activation_qparams(low: float, high: float) -> QParams:
    """The parameters that cover `[low, high]` and 0; safe for empty and tiny ranges.

    Every value of the range is then represented with an error of at most half a step.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"the range [{low}, {high}] is not finite")
    span = high - low
    if span == 0.0:
        return QParams(1.0, 0)
    scale = float(np.float32(max(span / U8_MAX, SCALE_MIN)))
    zero_point = int(np.clip(np.rint(-low / scale), 0, U8_MAX))
    return QParams(scale, zero_point)


def quantize(x: Array, params: QParams) -> Array:
    """float32 of any shape -> uint8 of the same shape."""
    inverse = np.float32(1.0) / np.float32(params.scale)
    scaled: Array = np.rint(np.asarray(x, np.float32) * inverse) + np.float32(params.zero_point)
    return np.clip(scaled, 0, U8_MAX).astype(np.uint8)


def dequantize(q: Array, params: QParams) -> Array:
    """uint8 -> float32 of the same shape."""
    centred = q.astype(np.int32) - np.int32(params.zero_point)
    made: Array = centred.astype(np.float32) * np.float32(params.scale)
    return made


def weight_scales(
    weight: Array,
    axis: int,
    bias: Array | None = None,
    input_scale: float = 1.0,
    largest: int = W_MAX,
) -> Array:
    """float32 scales [K] for the `K` slices of `weight` along `axis`, to -`largest`..`largest`.

    An all-zero channel takes the scale of the largest one. A channel whose weights are so small
    that its `bias` [K] would not fit the int32 accumulator (in units of `input_scale * scale`)
    takes the smallest scale with which it does; its weights then hardly count beside the bias.
    """
    other = tuple(a for a in range(weight.ndim) if a != axis % weight.ndim)
    peaks = np.abs(weight).max(axis=other, initial=0.0).astype(np.float64)
    top = float(peaks.max(initial=0.0)) or 1.0
    scales = np.where(peaks > 0.0, peaks, top) / largest
    if bias is not None:
        floor = np.abs(np.asarray(bias, np.float64)).reshape(-1) / (float(input_scale) * _BIAS_MAX)
        scales = np.maximum(scales, floor)
    return np.maximum(scales, SCALE_MIN).astype(np.float32)


def quantize_weight(weight: Array, scales: Array, axis: int, largest: int = W_MAX) -> Array:
    """float32 weights -> int8, slice k along `axis` divided by `scales[k]`, at most `largest`."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    scaled = np.rint(weight.astype(np.float64) / scales.astype(np.float64).reshape(shape))
    return np.clip(scaled, -largest, largest).astype(np.int8)


def integer_bias(
    bias: Array | None, acc_scales: Array, weight_sums: Array, zero_point: int
) -> Array:
    """int64 [K] to add to `sum(q * w)`: the bias in accumulator units, less zero point times sums.

    `acc_scales` [K] is input scale times weight scales; `weight_sums` [K] sums the int8 weights
    that one output reads. The caller checks `fits_int32` before it narrows the result.
    """
    rounded = np.zeros(len(acc_scales), np.float64)
    if bias is not None:
        rounded = np.rint(np.asarray(bias, np.float64).reshape(-1) / acc_scales.astype(np.float64))
    rounded = np.clip(rounded, -(2.0**62), 2.0**62)
    return rounded.astype(np.int64) - np.int64(zero_point) * weight_sums.astype(np.int64)


def fits_int32(bias: Array, weight_magnitudes: Array) -> bool:
    """Whether no input can overflow: 255 times the sum of |w| [K], plus |bias| [K], below 2**31."""
    worst = U8_MAX * weight_magnitudes.astype(np.int64) + np.abs(bias.astype(np.int64))
    return bool((worst <= INT32_MAX).all())


def requantize_bounds(
    params: QParams, low: float | None = None, high: float | None = None
) -> tuple[int, int]:
    """The clip of `rint(acc * multiplier)`: 0..255 less the zero point, cut by an activation.

    `low` and `high` are the bounds of a relu or clip in real units. Rounding is monotonic, so that
    clipping the rounded value to the rounded bound equals rounding the clipped value.
    """
    floor, ceiling = -params.zero_point, U8_MAX - params.zero_point
    inverse = np.float32(1.0) / np.float32(params.scale)
    if low is not None and np.isfinite(low):
        floor = max(floor, int(np.clip(np.rint(np.float32(low) * inverse), floor, ceiling)))
    if high is not None and np.isfinite(high):
        ceiling = min(ceiling, int(np.clip(np.rint(np.float32(high) * inverse), floor, ceiling)))
    return floor, ceiling


def requantize(
    acc: Array, multiplier: Array | np.float32, params: QParams, bounds: tuple[int, int]
) -> Array:
    """int32 accumulators -> uint8: `clip(rint(float32(acc) * multiplier), *bounds) + zero_point`.

    `multiplier` is float32, a scalar or [K] for the last axis.
    """
    scaled = np.rint(acc.astype(np.float32) * np.asarray(multiplier, np.float32))
    clipped = np.clip(scaled, bounds[0], bounds[1]).astype(np.int32)
    return (clipped + params.zero_point).astype(np.uint8)
