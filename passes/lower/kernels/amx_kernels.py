"""Convolutions and products with constant weights as products over tile registers."""

from __future__ import annotations

from tvm import relax

from lepton_tvm.ir.graph import Array, Expr, constant
from lepton_tvm.ir.precisions import BFLOAT16, INT8, Precision
from lepton_tvm.kernels.amx_plan import TilePlan, plan_conv2d, plan_matmul
from lepton_tvm.kernels.amx_tiles import pack_tile_weight, tile_product
from lepton_tvm.kernels.conv2d import ConvShape
from lepton_tvm.targets import Level

__all__ = ["tiled_conv2d", "tiled_matmul"]

# What tile registers multiply, by the weights' type.
_TILED = {p.weight: p for p in (INT8, BFLOAT16)}


def tiled_matmul(
    builder: relax.BlockBuilder, x: Expr, weight: Array, leading: tuple[int, ...], isa: Level
) -> Expr | None:
    """x [*leading, depth] times weight [depth, columns]; None where tiles are not worth it."""
    precision = _TILED.get(str(weight.dtype))
    if not isa.amx or precision is None:
        return None
    plan = plan_matmul(leading, weight.shape[0], weight.shape[1], precision.per_lane)
    return _emit(builder, "matmul", precision, x, weight, plan)


def tiled_conv2d(
    builder: relax.BlockBuilder, x: Expr, weight: Array, shape: ConvShape, isa: Level
) -> Expr | None:
    """A convolution of x NHWC with weight HWIO; None where it is grouped or tiles are not worth it.

    The register tile of `shape` and its `dot` are not looked at.
    """
    precision = _TILED.get(str(weight.dtype))
    if not isa.amx or precision is None or shape.groups != 1:
        return None
    plan = plan_conv2d(shape, precision.per_lane)
    return _emit(builder, "conv2d", precision, x, weight, plan)


def _emit(
    builder: relax.BlockBuilder,
    kernel: str,
    precision: Precision,
    x: Expr,
    weight: Array,
    plan: TilePlan,
) -> Expr | None:
    shape = plan.shape
    if not plan.pays:
        return None
    taps = weight.reshape(*shape.taps, shape.depth, shape.columns)
    return builder.call_te(
        lambda a, b: tile_product(a, b, shape, kernel),
        x,
        constant(pack_tile_weight(taps, shape)),
        primfunc_name_hint=kernel + precision.suffix,
    )
