"""Kernels over odd shapes for one ARM level: arguments, scheduled function, NumPy's answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import te, topi

from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels import rows
from lepton_tvm.kernels.batch_matmul import BatchMatmulShape, batch_matmul
from lepton_tvm.kernels.conv2d import ConvShape, conv2d, pack_conv2d_weight
from lepton_tvm.kernels.depthwise import depthwise_conv2d, pack_depthwise_weight
from lepton_tvm.kernels.dot import dot_candidates
from lepton_tvm.kernels.image import Image, image_conv2d
from lepton_tvm.kernels.matmul import MatmulShape, matmul, pack_matmul_weight
from lepton_tvm.kernels.register_tile import (
    RegisterTile,
    choose_tile,
    mmla_tiles,
    ranked_tiles,
)
from lepton_tvm.kernels.winograd import WinogradShape, pack_winograd_weight, winograd_conv2d
from lepton_tvm.passes.lower.kernels.packed_kernel import mmla_conv_kernel, mmla_kernel
from lepton_tvm.passes.lower.legalize.legalize import _nearbyint
from lepton_tvm.schedules.arm import RULES
from lepton_tvm.schedules.base import Choices, Decided
from lepton_tvm.targets import Target
from tests.support.conv2d_cases import SIZES, WINDOWS, case
from tests.support.image_cases import LAYERS, packed_image
from tests.support.kernels import conv2d_reference, scheduled
from tests.support.product_cases import PRODUCTS

__all__ = ["Case", "cases", "values"]

_RULE = {rule.name: rule for rule in RULES}
# batch, height, width, channels, output channels; words of 8 channels, two of which are unrolled
_DEEP = [(2, 6, 15, 16, 18), (1, 4, 8, 48, 8), (3, 5, 6, 32, 36)]
# rows, depth, columns: rounds of a whole register and of half of one, tiles of one register
_LANES = [((5, 9), 48, 36), ((3, 7), 40, 20), ((14,), 32, 4)]
# what is not the default
_OTHER = {
    "channel_blocks_outermost": 1, "column_blocks_outermost": 1, "unroll_depth": 1,
    "unroll_epilogue": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A kernel: its function, inputs, the output's place, NumPy's answer and what may differ."""

    name: str
    func: tvm.tirx.PrimFunc
    arguments: tuple[Array, ...]
    want: Array
    tolerance: float

    def check(self, got: Array) -> None:
        """Raise AssertionError unless `got` is the answer: exactly for integers."""
        if self.want.dtype.kind in "iu":
            np.testing.assert_array_equal(got, self.want, self.name)
        else:
            np.testing.assert_allclose(
                got, self.want, rtol=0, atol=self.tolerance, err_msg=self.name
            )


def cases(target: Target) -> Iterator[Case]:
    """All cases of a level."""
    level = target.level
    for dot in (1, *dot_candidates("int8", 16, level)):
        offset = level.offset if dot == 4 else 0
        for seed, window in enumerate(WINDOWS):
            yield _conv(target, window, SIZES[seed % 4], dot, 1, offset, seed)
        for seed, window in enumerate([w for w in WINDOWS if w != "1x1 stride 2"]):
            n, h, w, c = [(1, 7, 9, 16), (2, 5, 13, 24), (1, 6, 113, 36), (1, 5, 7, 3)][seed % 4]
            yield _conv(target, window, (n, h, w, c, c), dot, c, offset, seed)
        yield _conv(target, "3x3 same", (1, 7, 9, 12, 40), dot, 4, offset, 5)
        for product in (*PRODUCTS, *_LANES):
            yield _product(target, *product, dot, offset)
            if dot in (1, 4):
                yield _product(target, *product, dot, offset, last=True)
    if level.mmla:
        for product in (*PRODUCTS, ((2, 3), 8, 6), ((1, 6, 6), 40, 36)):
            yield _mmla_product(target, *product)
            yield _mmla_product(target, *product, last=True)
        for seed, window in enumerate(WINDOWS):
            yield _mmla_conv(target, window, SIZES[seed % 4], seed)
            yield _mmla_conv(target, window, _DEEP[seed % 3], seed + 1, last=True)
    for layer in ("7x7 stride 2", "3x3 asymmetric", "5x3 dilated"):
        yield _first_layer(target, layer, 1, 0)
        if level.dot4:
            yield _first_layer(target, layer, 4, level.offset)
    yield from _floats(target)
    for columns, *bounds in ((16, 0, 0, 255), (24, 7, 0, 255), (20, 128, 20, 236), (32, 255, 0, 9)):
        yield _quantized(target, columns, *bounds)


def _made(
    target: Target, name: str, rule: str, kernel: Callable[..., te.Tensor],
    inputs: tuple[Array, ...], want: Array, terms: int, choices: Choices | None = None,
) -> Case:  # fmt: skip
    func, shape, dtype = scheduled(kernel, _RULE[rule], target, inputs, choices)
    symbol = "".join(c if c.isalnum() else "_" for c in name)
    arguments = (*inputs, np.zeros(shape, dtype))
    # rounding of a sum of `terms` products of unit variance
    tolerance = terms * 16 * 2.0**-24 + 1e-6
    return Case(
        symbol, func.with_attr("global_symbol", symbol), arguments, want.astype(dtype), tolerance
    )


def values(seed: int, integer: bool, x: tuple[int, ...], w: tuple[int, ...]) -> Any:
    """Normal floats; bytes of the whole range, of odd seeds from its ends only."""
    rng = np.random.default_rng(seed)
    if not integer:
        return rng.standard_normal(x).astype("float32"), rng.standard_normal(w).astype("float32")
    if seed % 2:
        return rng.choice([0, 255], x).astype("uint8"), rng.choice([-127, 127], w).astype("int8")
    return rng.integers(0, 256, x).astype("uint8"), rng.integers(-127, 128, w).astype("int8")


def _conv(
    target: Target, window: str, size: tuple[int, ...], dot: int, groups: int, offset: int,
    seed: int,
) -> Case:  # fmt: skip
    shape, tile = case(window, size, target.level, dot, groups)
    shape = replace(shape, offset=offset)
    depthwise = groups == shape.channels == shape.out_channels
    x, w = values(
        seed, dot > 1,
        (shape.batch, shape.height, shape.width, shape.channels),
        (*shape.kernel, shape.group_in, shape.out_channels),
    )  # fmt: skip
    kernel, pack = (
        (depthwise_conv2d, pack_depthwise_weight) if depthwise else (conv2d, pack_conv2d_weight)
    )
    return _made(
        target, f"conv {window} {size} {groups} {dot}",
        "arm.depthwise_conv2d" if depthwise else "arm.conv2d",
        lambda a, b: kernel(a, b, shape, tile),
        (x, pack(w, shape)), _convolved(x, w, shape), w[..., 0].size,
    )  # fmt: skip


def _convolved(x: Array, w: Array, shape: ConvShape) -> Array:
    less = replace(shape, pad_value=shape.pad_value - shape.offset)
    return conv2d_reference(x - np.int32(shape.offset) if shape.dot > 1 else x, w, less)


def _product(
    target: Target, leading: tuple[int, ...], depth: int, columns: int, dot: int, offset: int,
    last: bool = False,
) -> Case:  # fmt: skip
    """With the default tile and choices, or the last tile and half as many lanes at once."""
    tile = ranked_tiles(int(np.prod(leading)), columns, target.level, dot)[-1 if last else 0]
    shape = MatmulShape(leading, depth, columns, dot, tile.rows, tile.channels, False, offset)
    x, w = values(depth, dot > 1, (*leading, depth), (depth, columns))
    return _made(
        target, f"matmul {leading} {depth} {columns} {dot} {last}", "arm.matmul",
        lambda a, b: matmul(a, b, shape, tile),
        (x, pack_matmul_weight(w, shape)),
        (x.astype(np.float64) - offset) @ w.astype(np.float64), depth,
        Decided({"lanes_at_once": 2} if last else {}),
    )  # fmt: skip


def _mmla_product(
    target: Target, leading: tuple[int, ...], depth: int, columns: int, last: bool = False
) -> Case:
    """With the default tile and choices, or the last tile and other choices."""
    tile = mmla_tiles(int(np.prod(leading)), columns, target.level)[-1 if last else 0]
    x, w = values(depth, True, (*leading, depth), (depth, columns))
    made = mmla_kernel(w, leading, tile)
    return _made(
        target, f"matrix {leading} {depth} {columns} {last}", "arm.matrix_matmul",
        lambda a, b: made.kernel(a, b, made.shape, tile), (x, made.packed),
        x.astype(np.float64) @ w.astype(np.float64), depth, Decided(_OTHER if last else {}),
    )  # fmt: skip


def _mmla_conv(
    target: Target, window: str, size: tuple[int, ...], seed: int, last: bool = False
) -> Case:
    """As `_mmla_product`."""
    shape, _ = case(window, size, target.level, 4, 1)
    tiles = mmla_tiles(shape.out_width, shape.out_channels, target.level, pair_loads=1)
    tile = tiles[-1 if last else 0]
    x, w = values(
        seed, True,
        (shape.batch, shape.height, shape.width, shape.channels),
        (*shape.kernel, shape.channels, shape.out_channels),
    )  # fmt: skip
    made = mmla_conv_kernel(w, shape, tile)
    return _made(
        target, f"matrix conv {window} {size} {last}", "arm.matrix_conv2d",
        lambda a, b: made.kernel(a, b, made.shape, tile), (x, made.packed),
        _convolved(x, w, shape), w[..., 0].size, Decided(_OTHER if last else {}),
    )  # fmt: skip


def _first_layer(target: Target, layer: str, dot: int, offset: int) -> Case:
    n, h, w, c, k, kernel, strides, padding, dilation = LAYERS[layer]
    shape = ConvShape(
        n, h, w, c, k, kernel, strides, padding, dilation, 1, dot, rows=1, block=1,
        pad_value=200 if dot > 1 else 0, offset=offset,
    )  # fmt: skip
    tile = choose_tile(shape.out_width, k, target.level, dot)
    shape = replace(shape, rows=tile.rows, block=tile.channels)
    image = Image(shape)
    x, weight = values(3 if dot > 1 else 4, dot > 1, (n, h, w, c), (*kernel, c, k))
    return _made(
        target, f"image {layer} {dot}", "arm.conv2d",
        lambda a, b: image_conv2d(a, b, image, tile),
        (packed_image(x, image), pack_conv2d_weight(weight, shape)),
        _convolved(x, weight, shape), weight[..., 0].size,
    )  # fmt: skip


def _quantized(target: Target, columns: int, zero: int, low: int, high: int) -> Case:
    """A product and its integer epilogue, with sums beyond 16 and, scaled, beyond 32 bits."""
    dot, offset = 4, target.level.offset
    tile = ranked_tiles(15, columns, target.level, dot)[0]
    shape = MatmulShape((3, 5), 48, columns, dot, tile.rows, tile.channels, False, offset)
    x, w = values(zero, True, (3, 5, 48), (48, columns))
    scales = np.resize(np.array([1 / 8, 1 / 128, 1 / 4096, 3e-4, 1e5], "float32"), columns)

    def kernel(a: te.Tensor, b: te.Tensor, m: te.Tensor) -> te.Tensor:
        sums = matmul(a, b, shape, tile)
        steps = _nearbyint(topi.cast(sums, "float32") * m)
        cut = topi.clip(steps, float(low - zero), float(high - zero))
        return topi.cast(topi.cast(cut, "int32") + zero, "uint8")

    sums = (x.astype(np.int32) - offset) @ w.astype(np.int32)
    steps = np.rint(sums.astype("float32") * scales)
    return _made(
        target, f"quantized {columns} {zero} {low} {high}", "arm.matmul", kernel,
        (x, pack_matmul_weight(w, shape), scales),
        np.clip(steps, low - zero, high - zero) + zero, 48,
    )  # fmt: skip


def _floats(target: Target) -> Iterator[Case]:
    """Templates that know float32 only."""
    for size in (2, 4):
        conv = ConvShape(
            1, 7, 13, 8, 12, (3, 3), (1, 1), (0, 1, 1, 0), (1, 1), 1, dot=1, rows=4, block=4
        )
        x, w = values(6, False, (1, 7, 13, 8), (3, 3, 8, 12))
        moved = WinogradShape(conv, size, 4)
        want = conv2d_reference(x, w, conv)
        yield replace(
            _made(
                target, f"winograd {size}", "arm.winograd_conv2d",
                lambda a, b, moved=moved: winograd_conv2d(
                    a, b, moved, RegisterTile(4, 4, 1)
                ),
                (x, pack_winograd_weight(w, moved)), want, 72,
            ),
            # of the largest output, as tests/schedules/test_winograd.py
            tolerance={2: 2e-6, 4: 1e-5}[size] * float(np.abs(want).max()),
        )  # fmt: skip
    tile = choose_tile(49, 33, target.level)
    product = BatchMatmulShape((2, 3), 49, 17, 33, tile.rows, tile.channels, (0, 1, 2, 3))
    x, y = values(8, False, (2, 3, 49, 17), (2, 3, 17, 33))
    yield _made(
        target, "batch matmul", "arm.batch_matmul",
        lambda a, b: batch_matmul(
            a, b, product, tile,
            lambda t, i: t[tuple(i)], lambda t, i: t[tuple(i)],
        ),
        (x, y), x.astype(np.float64) @ y, 17,
    )  # fmt: skip
    x = 5 * values(9, False, (3, 197), (1,))[0]
    powers = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    yield _made(
        target, "softmax", "arm.rows", rows.softmax, (x,),
        powers / powers.sum(-1, keepdims=True), 1,
    )  # fmt: skip
    x = values(10, False, (2, 5, 7, 10), (1,))[0]
    yield _made(
        target, "sum", "arm.reduction", lambda t: topi.sum(t, [1, 2]), (x,),
        x.astype(np.float64).sum((1, 2)), 35,
    )  # fmt: skip
    yield _made(
        target, "transpose and clip", "arm.elementwise",
        lambda t: topi.clip(topi.transpose(t, (0, 3, 1, 2)), 0.0, 1.5), (x,),
        np.clip(x.transpose(0, 3, 1, 2), 0, 1.5), 0,
    )  # fmt: skip
