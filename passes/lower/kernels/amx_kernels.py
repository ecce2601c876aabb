"""Convolutions and products with constant weights as products over tile registers."""

from __future__ import annotations

from tvm import relax

from lepton_tvm.ir.graph import Array, Expr, constant
from lepton_tvm.kernels.amx_plan import TilePlan, plan_conv2d, plan_matmul
from lepton_tvm.kernels.amx_tiles import pack_tile_weight, tile_product
from lepton_tvm.kernels.conv2d import ConvShape
from lepton_tvm.targets import Level

__all__ = ["tiled_conv2d", "tiled_matmul"]

# Values that one instruction multiplies and adds into a 32-bit sum, by the weights' type.
_DOTS = {"int8": 4, "bfloat16": 2}


def tiled_matmul(
    builder: relax.BlockBuilder, x: Expr, weight: Array, leading: tuple[int, ...], isa: Level
) -> Expr | None:
    """x [*leading, depth] times weight [depth, columns]; None where tiles are not worth it."""
    dot = _DOTS.get(str(weight.dtype))
    if not isa.amx or dot is None:
        return None
    plan = plan_matmul(leading, weight.shape[0], weight.shape[1], dot)
    return _emit(builder, "matmul", x, weight, plan)


def tiled_conv2d(
    builder: relax.BlockBuilder, x: Expr, weight: Array, shape: ConvShape, isa: Level
) -> Expr | None:
    """A convolution of x NHWC with weight HWIO; None where it is grouped or tiles are not worth it.

    The register tile of `shape` and its `dot` are not looked at.
    """
    dot = _DOTS.get(str(weight.dtype))
    if not isa.amx or dot is None or shape.groups != 1:
        return None
    return _emit(builder, "conv2d", x, weight, plan_conv2d(shape, dot))


def _emit(
    builder: relax.BlockBuilder, kernel: str, x: Expr, weight: Array, plan: TilePlan
) -> Expr | None:
    shape = plan.shape
    if not plan.pays:
        return None
    taps = weight.reshape(*shape.taps, shape.depth, shape.columns)
    return builder.call_te(
        lambda a, b: tile_product(a, b, shape, kernel),
        x,
        constant(pack_tile_weight(taps, shape)),
        primfunc_name_hint=kernel + ("_int8" if shape.dot == 4 else "_bf16"),
    )
