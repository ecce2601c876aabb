"""Winograd from bfloat16 against NumPy, within what rounding its frequencies can do."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.conv2d import ConvShape
from lepton_tvm.kernels.kernel_plan import conv_plans
from lepton_tvm.kernels.register_tile import dividing_tile, ranked_tiles
from lepton_tvm.kernels.winograd import WinogradShape, pack_winograd_weight, winograd_conv2d
from lepton_tvm.schedules.x86 import WINOGRAD_CONV2D
from lepton_tvm.targets import ISAS
from tests.support.kernels import conv2d_reference, needs, run_kernel
from tests.support.winograd_cases import WINOGRAD_SHAPES

ISA = ISAS["bf16"]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# F(2x2): the transforms of the input, of the filter and back (Lavin and Gray, 2015).
INTO = np.array([[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]])
FILTER = np.array([[-1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
BACK = np.array([[1, 1, 1, 0], [0, 1, -1, 1]])


def conv(
    batch: int, size: tuple[int, int], padding: tuple[int, int, int, int], c: int, k: int
) -> ConvShape:
    return ConvShape(
        batch, *size, c, k, (3, 3), (1, 1), padding, (1, 1), 1,
        dot=2, rows=1, block=k, bfloat16=True,
    )  # fmt: skip


def error_bound(x: Array, w: Array, s: ConvShape) -> Array:
    """By how much the result may be off: every |frequency of x| |frequency of w| that an output
    adds, times two roundings of bfloat16 (2**-8 each) and those of float32 sums."""
    top, left, _, _ = s.padding
    high, wide = -(-s.out_height // 2), -(-s.out_width // 2)
    padded = np.zeros((s.batch, 2 * high + 2, 2 * wide + 2, s.channels))
    rows = min(s.height, padded.shape[1] - top)
    columns = min(s.width, padded.shape[2] - left)
    padded[:, top : top + rows, left : left + columns] = x[:, :rows, :columns]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4), (1, 2))[:, ::2, ::2]
    frequencies = abs(np.einsum("ai,nhwcij,bj->nhwcab", INTO, windows, INTO))
    filters = abs(np.einsum("ai,ijck,bj->abck", FILTER, w.astype(np.float64), FILTER))
    sums = np.einsum("nhwcab,abck->nhwkab", frequencies, filters)
    spread = np.einsum("ia,nhwkab,jb->nhiwjk", abs(BACK), sums, abs(BACK))
    full = spread.reshape(s.batch, 2 * high, 2 * wide, s.out_channels)
    unit = 2 * 2.0**-8 + 2.0**-16 + (s.channels + 16) * 2.0**-24
    bound: Array = unit * full[:, : s.out_height, : s.out_width]
    return bound


@pytest.mark.parametrize("group", [1, 4, 0], ids=["single", "fours", "all"])
@pytest.mark.parametrize(("batch", "h", "w", "padding", "c", "k"), WINOGRAD_SHAPES)
def test_convolution_is_off_by_rounding_only(
    batch: int, h: int, w: int, padding: tuple[int, int, int, int], c: int, k: int, group: int
) -> None:
    needs("bf16")
    plain = conv(batch, (h, w), padding, c * ISA.lanes, k * ISA.lanes)
    group = group or WinogradShape(plain, 2, 1).tiles
    tile = dividing_tile(group, plain.out_channels, ISA)
    shape = WinogradShape(replace(plain, rows=tile.rows, block=tile.channels), 2, group)
    rng = np.random.default_rng(h * w)
    x = rng.standard_normal((batch, h, w, plain.channels)).astype(BFLOAT16)
    weight = rng.standard_normal((3, 3, plain.channels, plain.out_channels)).astype(BFLOAT16)
    got = run_kernel(
        lambda a, b: winograd_conv2d(a, b, shape, tile),
        WINOGRAD_CONV2D, "bf16", x, pack_winograd_weight(weight, shape),
    )  # fmt: skip
    error = abs(got - conv2d_reference(x, weight, plain))
    bound = error_bound(x, weight, plain)
    assert (error <= bound).all()
    assert error.max() > bound.max() / 1000, "the bound says nothing"


def test_only_small_tiles_are_planned() -> None:
    shape = conv(1, (28, 28), (1, 1, 1, 1), 128, 128)
    plan = conv_plans(shape, ranked_tiles(28, 128, ISA), ISA, 1, winograd=True)[0].winograd
    assert plan is not None
    assert plan.shape.size == 2
