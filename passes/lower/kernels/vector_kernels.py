"""Which kernel over packed weights a convolution or product becomes on vector registers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from lepton_tvm.ir.graph import Array, Expr
from lepton_tvm.ir.precisions import BFLOAT16, INT8
from lepton_tvm.kernels.conv2d import ConvShape, conv2d, pack_conv2d_weight
from lepton_tvm.kernels.depthwise import depthwise_conv2d, pack_depthwise_weight
from lepton_tvm.kernels.dot import WORD, dot_candidates, is_exact, uses_maddubs
from lepton_tvm.kernels.image import Image
from lepton_tvm.kernels.kernel_plan import KernelPlan, conv_plans, product_plans
from lepton_tvm.kernels.matmul import MatmulShape, matmul, pack_matmul_weight
from lepton_tvm.kernels.register_tile import RegisterTile, channel_tiles, ranked_tiles
from lepton_tvm.passes.lower.kernels.packed_kernel import (
    PackedKernel,
    first_layer_kernel,
    mmla_conv_kernel,
    mmla_kernel,
    winograd_kernel,
)
from lepton_tvm.targets import Level, Target

__all__ = ["CpuKernels", "ImageOf"]

# Taps of a float depthwise filter that are read often enough to leave room for longer runs.
_SMALL_FILTER = 9

#: The channels-first image that the operand of a convolution turns around, or None.
ImageOf = Callable[[ConvShape], "tuple[Expr, Image] | None"]


@dataclass(frozen=True)
class CpuKernels:
    """The kernels of one target. `choose` takes one of an op's plans, the first by default.

    Of the values of `dot` that fit an op, the first one whose sums are exact with its weights is
    taken. Both methods also tell whether that was a last resort: factors of 16 bits.
    """

    target: Target
    winograd: bool
    choose: Callable[[list[KernelPlan]], KernelPlan]

    def matmul(self, weight: Array, leading: tuple[int, ...]) -> tuple[PackedKernel, bool]:
        """The product of [*leading, depth] with `weight` [depth, columns]."""
        depth, columns = weight.shape
        rows = max(1, math.prod(leading))

        def made(dot: int) -> PackedKernel:
            tiles = self._tiles(rows, columns, weight, dot, depth * weight.itemsize)
            plans = [KernelPlan(tile) for tile in tiles]
            if self._isa.mmla and weight.dtype == INT8.weight:
                plans = product_plans(rows, depth, columns, tiles, self._isa)
            plan = self.choose(plans)
            tile = plan.tile
            if plan.mmla:
                return mmla_kernel(weight, leading, tile)
            shape = MatmulShape(
                leading, depth, columns, dot, tile.rows, tile.channels,
                weight.dtype == BFLOAT16.weight, self._offset(dot, weight),
            )  # fmt: skip
            return PackedKernel("matmul", matmul, shape, tile, pack_matmul_weight(weight, shape))

        return self._first_exact(made, weight, depth)

    def conv2d(
        self, weight: Array, plain: ConvShape, depthwise: bool, image_of: ImageOf
    ) -> tuple[PackedKernel, bool]:
        """The convolution `plain` with HWIO `weight`; its tile and `dot` are not looked at."""

        def made(dot: int) -> PackedKernel:
            plan = self.choose(self._conv_plans(weight, plain, dot, depthwise))
            tile = plan.tile
            if plan.mmla:
                return mmla_conv_kernel(weight, plain, tile)
            if plan.winograd is not None:
                return winograd_kernel(weight, plan.winograd)
            offset = self._offset(dot, weight)
            shape = replace(plain, dot=dot, rows=tile.rows, block=tile.channels, offset=offset)
            if depthwise:
                packed = pack_depthwise_weight(weight, shape)
                return PackedKernel("depthwise_conv2d", depthwise_conv2d, shape, tile, packed)
            packed = pack_conv2d_weight(weight, shape)
            found = image_of(shape)
            if found is not None:
                return first_layer_kernel(shape, tile, packed, *found)
            return PackedKernel("conv2d", conv2d, shape, tile, packed)

        return self._first_exact(made, weight, 1 if depthwise else plain.group_in)

    @property
    def _isa(self) -> Level:
        return self.target.level

    def _conv_plans(
        self, weight: Array, plain: ConvShape, dot: int, depthwise: bool
    ) -> list[KernelPlan]:
        if plain.groups == 1:
            row_bytes = plain.strides[1] * plain.channels * weight.itemsize
            tiles = self._tiles(plain.out_width, plain.out_channels, weight, dot, row_bytes)
        else:
            # the channels of a group are not padded, so lanes must divide them
            channels = plain.channels if depthwise else plain.group_out
            wide = dot > 1 or math.prod(plain.kernel) <= _SMALL_FILTER
            tiles = channel_tiles(plain.out_width, channels, self._isa, wide=wide)
        return conv_plans(
            replace(plain, dot=dot),
            tiles,
            self._isa,
            self.target.cores,
            # where there are tile registers, what they leave is too small for transforms
            winograd=self.winograd and not (plain.bfloat16 and self._isa.amx),
            mmla=self._isa.mmla and weight.dtype == INT8.weight and plain.groups == 1,
        )

    def _tiles(
        self, extent: int, channels: int, weight: Array, dot: int, row_bytes: int
    ) -> list[RegisterTile]:
        # other units have tiles of many rows, for which the weights' way does not count
        narrow = uses_maddubs(dot, self._isa) and weight.dtype == INT8.weight
        return ranked_tiles(
            extent,
            channels,
            self._isa,
            1 if weight.dtype == BFLOAT16.weight else dot,
            row_bytes=row_bytes,
            weight_bytes=weight.size // channels if narrow else 0,
        )

    def _offset(self, dot: int, weight: Array) -> int:
        return self._isa.offset if dot == WORD and weight.dtype == INT8.weight else 0

    def _first_exact(
        self, made: Callable[[int], PackedKernel], weight: Array, depth: int
    ) -> tuple[PackedKernel, bool]:
        dots = dot_candidates(str(weight.dtype), depth, self._isa)
        for dot in dots:
            kernel = made(dot)
            if is_exact(kernel.packed, dot, self._isa):
                break
        return kernel, len(dots) > 1 and dot == dots[-1]
