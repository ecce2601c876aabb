"""Which Relax ops the integer path knows, and the facts about them that several passes need."""

from __future__ import annotations

import numpy as np

from lepton_tvm.ir.graph import Expr, const_array, dtype_of, is_constant, op_name, shape_of
from lepton_tvm.ir.ops import named
from lepton_tvm.passes.quantize.qparams import INT32_MAX, U8_MAX, W_MAX

__all__ = [
    "ANCHORS",
    "ELEMENTWISE",
    "JOINS",
    "PASSTHROUGH",
    "POOLS",
    "anchor_obstacle",
    "clip_bounds",
    "data_operands",
    "float_obstacle",
    "is_depthwise",
    "is_per_channel",
    "is_pixels",
    "passes_through",
    "pool_obstacle",
    "weight_axis",
]

ANCHORS = named("quantize", "anchor")
# The values of the result are values of the operand: quantization commutes with these. Some of them
# do so for the nearest neighbour only, see `passes_through`.
_NEAREST = named("quantize", "pass_nearest")
PASSTHROUGH = named("quantize", "pass") | _NEAREST
# Averages, done as int32 sums.
POOLS = named("quantize", "pool")
# Operands side by side, with one scale.
JOINS = named("quantize", "join")
# Cheap maps of equal or broadcast shape: they ride in the epilogue of the kernel before them.
ELEMENTWISE = named("quantize", "elementwise")


def weight_axis(call: Expr) -> int:
    """The axis of output channels in the weight of an anchor: 3 for HWIO, 1 for a [K, N] matrix."""
    return 3 if op_name(call) == "relax.nn.conv2d" else 1


def data_operands(call: Expr) -> tuple[Expr, ...]:
    """The tensor operands of a call: the fields of a tuple operand, else its arguments."""
    if op_name(call) in JOINS:
        return tuple(call.args[0].fields) if hasattr(call.args[0], "fields") else ()
    if op_name(call) in PASSTHROUGH | POOLS:
        return (call.args[0],)
    return tuple(call.args)


def passes_through(call: Expr) -> bool:
    """Whether every value of the result is a value of the operand, so that uint8 can pass."""
    if op_name(call) in _NEAREST:
        return str(call.attrs.method) == "nearest_neighbor"
    return op_name(call) in PASSTHROUGH


def is_pixels(call: Expr) -> bool:
    """Whether a call casts uint8 to float32, so that its operand is its exact uint8 form."""
    if op_name(call) != "relax.astype":
        return False
    return dtype_of(call.args[0]) == "uint8" and dtype_of(call) == "float32"


def is_depthwise(call: Expr) -> bool:
    """Whether a call is an NHWC convolution of one filter per channel."""
    if op_name(call) != "relax.nn.conv2d" or str(call.attrs.data_layout) != "NHWC":
        return False
    groups = int(call.attrs.groups)
    return groups > 1 and groups == shape_of(call.args[0])[3] == shape_of(call)[3]


def anchor_obstacle(call: Expr) -> str | None:
    """Why this conv2d or matmul cannot be quantized, or None when it can."""
    reason = float_obstacle(call)
    if reason is not None:
        return reason
    fan_in = int(np.prod(shape_of(call.args[1])[:-1], dtype=np.int64))
    if fan_in * U8_MAX * W_MAX > INT32_MAX:
        return f"sums of {fan_in} products can overflow int32"
    return None


def float_obstacle(call: Expr) -> str | None:
    """Why a narrower type cannot take the place of float32 in this conv2d or matmul, or None."""
    data, weight = call.args[0], call.args[1]
    is_conv = op_name(call) == "relax.nn.conv2d"
    if is_constant(data):
        return "the data operand is constant and the weight is not"
    if not is_constant(weight):
        return "weight is not constant" if is_conv else "both operands are activations"
    if dtype_of(data) != "float32" or dtype_of(weight) != "float32":
        return f"{dtype_of(data)} data with {dtype_of(weight)} weight, only float32 is quantized"
    if is_conv and (call.attrs.data_layout, call.attrs.kernel_layout) != ("NHWC", "HWIO"):
        return f"layout {call.attrs.data_layout}/{call.attrs.kernel_layout}, need NHWC/HWIO"
    if not is_conv and len(shape_of(weight)) != 2:
        return f"weight has {len(shape_of(weight))} dimensions, only a [K, N] matrix is quantized"
    if not np.isfinite(const_array(weight)).all():  # type: ignore[arg-type]
        return "weight has NaN or infinite values"
    return None


def pool_obstacle(call: Expr) -> str | None:
    """Why this average pool or mean cannot be done in int32 sums, or None when it can."""
    op, attrs = op_name(call), call.attrs
    shape = shape_of(call.args[0])
    if op == "relax.mean":
        axes = sorted(int(a) % len(shape) for a in (attrs.axis or range(len(shape))))
        return None if len(shape) == 4 and axes == [1, 2] else "not over the two spatial axes"
    if str(attrs.layout) != "NHWC":
        return f"layout {attrs.layout}, need NHWC"
    if op == "relax.nn.adaptive_avg_pool2d":
        to_one = shape_of(call)[1:3] == (1, 1)
        return None if to_one else "adaptive pooling to more than 1x1 has windows of mixed size"
    if bool(attrs.ceil_mode):
        return "ceil_mode makes windows of mixed size"
    if not bool(attrs.count_include_pad) and any(int(p) for p in attrs.padding):
        return "padding that is left out of the count makes windows of mixed size"
    return None


def clip_bounds(call: Expr) -> tuple[float, float] | None:
    """(low, high) of a relu or clip; None for any other call."""
    op = op_name(call)
    if op == "relax.nn.relu":
        return (0.0, float("inf"))
    if op != "relax.clip":
        return None
    low, high = (_number(a) for a in call.args[1:3])
    return None if low is None or high is None else (low, high)


def _number(expr: Expr) -> float | None:
    value = getattr(expr, "value", expr)
    value = getattr(value, "value", value)
    return float(value) if isinstance(value, int | float) else None


def is_per_channel(const: Expr, channels: int) -> bool:
    """Whether a constant has one value per channel of the last axis: [..1, 1, K] or [K]."""
    shape = shape_of(const)
    return bool(shape) and shape[-1] == channels and all(d == 1 for d in shape[:-1])
