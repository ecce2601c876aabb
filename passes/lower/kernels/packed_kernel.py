"""A kernel that is ready to be emitted: loop nest, extents, register tile and packed weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lepton_tvm.ir.graph import Array, Expr
from lepton_tvm.kernels.conv2d import ConvShape, pack_conv2d_weight
from lepton_tvm.kernels.image import Image, image_conv2d, pack_image
from lepton_tvm.kernels.matmul import MatmulShape, pack_matmul_weight
from lepton_tvm.kernels.mmla_conv2d import mmla_conv2d
from lepton_tvm.kernels.mmla_matmul import MMLA_DEPTH, mmla_matmul
from lepton_tvm.kernels.register_tile import RegisterTile
from lepton_tvm.kernels.winograd import pack_winograd_weight, winograd_conv2d
from lepton_tvm.kernels.winograd_plan import WinogradPlan

__all__ = [
    "PackedKernel",
    "first_layer_kernel",
    "mmla_conv_kernel",
    "mmla_kernel",
    "winograd_kernel",
]


@dataclass(frozen=True)
class PackedKernel:
    """A kernel with its extents, its register tile and the weights packed for both.

    `kernel` takes the operand, the weights, `shape` and `tile`.
    `prepare` makes what it reads from `source`; without it the kernel reads the op's own operand.
    """

    name: str
    kernel: Callable[..., Any]
    shape: ConvShape | MatmulShape
    tile: RegisterTile
    packed: Array
    source: Expr = None
    prepare: Callable[[Any], Any] | None = None


def first_layer_kernel(
    shape: ConvShape, tile: RegisterTile, packed: Array, source: Expr, image: Image
) -> PackedKernel:
    """A convolution that reads `source`, a channels-first image, through `pack_image`."""

    def kernel(a: Any, b: Any, _: ConvShape, tile: RegisterTile) -> Any:
        return image_conv2d(a, b, image, tile)

    return PackedKernel(
        "conv2d", kernel, shape, tile, packed, source, lambda a: pack_image(a, image)
    )


def winograd_kernel(weight: Array, plan: WinogradPlan) -> PackedKernel:
    """The convolution of `plan`, with HWIO `weight` transformed."""
    packed = pack_winograd_weight(weight, plan.shape)

    def kernel(a: Any, b: Any, _: ConvShape, tile: RegisterTile) -> Any:
        return winograd_conv2d(a, b, plan.shape, tile)

    return PackedKernel("winograd_conv2d", kernel, plan.shape.conv, plan.tile, packed)


def mmla_kernel(weight: Array, leading: tuple[int, ...], tile: RegisterTile) -> PackedKernel:
    """The product with int8 `weight` [depth, columns] by a matrix instruction."""
    depth, columns = weight.shape
    shape = MatmulShape(leading, depth, columns, MMLA_DEPTH, tile.rows, tile.channels, mmla=True)
    packed = pack_matmul_weight(weight, shape)
    return PackedKernel("matmul", mmla_matmul, shape, tile, packed)


def mmla_conv_kernel(weight: Array, conv: ConvShape, tile: RegisterTile) -> PackedKernel:
    """The convolution `conv` without groups, with int8 HWIO `weight`, by a matrix instruction."""
    shape = replace(conv, dot=MMLA_DEPTH, rows=tile.rows, block=tile.channels, mmla=True)
    return PackedKernel("conv2d", mmla_conv2d, shape, tile, pack_conv2d_weight(weight, shape))
