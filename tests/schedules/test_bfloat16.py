"""bfloat16 kernels against NumPy, within the rounding of float32 sums, over odd shapes.

A product of two bfloat16 values is exact in float32, so a sum of `terms` of them is off by at most
`terms` roundings, each of 2**-24 of a partial sum that never exceeds the sum of magnitudes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import te

from lepton_tvm.compiler.build_cpu import build_kernels
from lepton_tvm.ir.bfloat16 import narrowed, widened
from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.conv2d import ConvShape, conv2d, pack_conv2d_weight
from lepton_tvm.kernels.depthwise import depthwise_conv2d, pack_depthwise_weight
from lepton_tvm.kernels.matmul import MatmulShape, matmul, pack_matmul_weight
from lepton_tvm.kernels.register_tile import RegisterTile, choose_channel_tile, choose_tile
from lepton_tvm.schedules.base import Defaults
from lepton_tvm.schedules.x86 import CONV2D, DEPTHWISE_CONV2D, ELEMENTWISE, MATMUL
from lepton_tvm.targets import ISAS, parse_target
from tests.support.conv2d_cases import SIZES, WINDOWS
from tests.support.kernels import conv2d_reference, needs, run_kernel

ISA = "bf16"
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def random(seed: int, *shape: int) -> Array:
    values: Array = np.random.default_rng(seed).standard_normal(shape).astype(BFLOAT16)
    return values


def check(got: Array, want: Array, magnitude: Array, terms: int) -> None:
    """`magnitude` is `want` computed from absolute values."""
    assert got.dtype == np.float32
    assert (np.abs(got - want) <= terms * 2.0**-24 * magnitude).all()


def conv_case(window: str, size: tuple[int, ...], groups: int) -> tuple[ConvShape, RegisterTile]:
    kernel, strides, padding, dilation = WINDOWS[window]
    n, h, w, c, k = size
    depthwise = groups == c == k
    shape = ConvShape(
        n, h, w, c, k, kernel, strides, padding, dilation, groups,
        dot=1 if depthwise else 2, rows=1, block=1, bfloat16=True,
    )  # fmt: skip
    tile = (
        choose_tile(shape.out_width, k, ISAS[ISA])
        if groups == 1
        else choose_channel_tile(shape.out_width, k if depthwise else k // groups, ISAS[ISA])
    )
    return dataclasses.replace(shape, rows=tile.rows, block=tile.channels), tile


def check_conv(shape: ConvShape, tile: RegisterTile, seed: int) -> None:
    needs(ISA)
    x = random(seed, shape.batch, shape.height, shape.width, shape.channels)
    w = random(seed + 99, *shape.kernel, shape.group_in, shape.out_channels)
    depthwise = shape.dot == 1
    packed = (
        pack_depthwise_weight(w.astype(np.float32), shape)
        if depthwise
        else pack_conv2d_weight(w, shape)
    )
    made = depthwise_conv2d if depthwise else conv2d
    got = run_kernel(
        lambda a, b: made(a, b, shape, tile),
        DEPTHWISE_CONV2D if depthwise else CONV2D,
        ISA, x, packed,
    )  # fmt: skip
    want, magnitude = conv2d_reference(x, w, shape), conv2d_reference(abs(x), abs(w), shape)
    check(got, want, magnitude, shape.group_in * shape.kernel[0] * shape.kernel[1])


@pytest.mark.parametrize("window", list(WINDOWS))
def test_plain_convolution(window: str) -> None:
    for seed, size in enumerate(SIZES):
        check_conv(*conv_case(window, size, 1), seed)


@pytest.mark.parametrize("window", ["3x3 same", "3x3 stride 2, asymmetric", "3x3 dilated"])
def test_grouped_convolution(window: str) -> None:
    for seed, (n, h, w, c, k) in enumerate(SIZES[:2]):
        check_conv(*conv_case(window, (n, h, w, 4 * c, 4 * k), 4), seed)


@pytest.mark.parametrize("window", [w for w in WINDOWS if w != "1x1 stride 2"])
def test_depthwise_convolution(window: str) -> None:
    for seed, (n, h, w, c) in enumerate([(1, 7, 9, 16), (2, 5, 13, 24), (1, 6, 13, 36)]):
        check_conv(*conv_case(window, (n, h, w, c, c), c), seed)


@pytest.mark.parametrize("size", [(1, 64, 40), (49, 31, 10), (3, 1, 1), (130, 48, 1000)])
def test_product(size: tuple[int, int, int]) -> None:
    needs(ISA)
    rows, depth, columns = size
    tile = choose_tile(rows, columns, ISAS[ISA])
    shape = MatmulShape((rows,), depth, columns, 2, tile.rows, tile.channels, True)
    x, w = random(1, rows, depth), random(2, depth, columns)
    packed = pack_matmul_weight(w, shape)
    got = run_kernel(lambda a, b: matmul(a, b, shape, tile), MATMUL, ISA, x, packed)
    x64, w64 = x.astype(np.float64), w.astype(np.float64)
    check(got, x64 @ w64, abs(x64) @ abs(w64), depth)


def elementwise(function: Any, x: Array) -> Array:
    needs(ISA)
    target = parse_target(f"x86:{ISA}")
    data = te.placeholder(x.shape, str(x.dtype), "x")
    out = te.compute(x.shape, lambda *i: function(data[i]), name="out")
    sch = ELEMENTWISE.apply(te.create_prim_func([data, out]), target, Defaults())
    assert sch is not None
    result = tvm.runtime.empty(x.shape, str(out.dtype).removeprefix("T."))
    built = build_kernels(sch.mod, target)
    built["main"](tvm.runtime.tensor(x), result)
    made: Array = result.numpy()
    return made


@pytest.mark.parametrize("length", [1, 7, 24, 64, 65, 640])
def test_rounding_is_to_nearest_even(length: int) -> None:
    rng = np.random.default_rng(length)
    x = (rng.standard_normal(length) * 10.0 ** rng.integers(-30, 30, length)).astype(np.float32)
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, np.inf, -np.inf, 0, 3.4e38], np.float32)
    x[: min(length, 7)] = ties[:length]
    got = elementwise(narrowed, x)
    np.testing.assert_array_equal(got, x.astype(BFLOAT16))


def test_nan_stays_nan_and_subnormal_becomes_zero() -> None:
    got = elementwise(narrowed, np.array([np.nan, 1e-40, -1e-40] * 16, np.float32))
    assert np.isnan(got[::3].astype(np.float32)).all()
    assert not got[1::3].any()
    assert not got[2::3].any()


def test_every_bfloat16_value_is_widened_exactly() -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view(BFLOAT16)
    np.testing.assert_array_equal(elementwise(widened, values), values.astype(np.float32))
