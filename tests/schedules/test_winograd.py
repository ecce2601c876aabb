"""Winograd convolution: against NumPy over odd shapes, the plan, and a whole fused function."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.conv2d import ConvShape
from lepton_tvm.kernels.kernel_plan import conv_plans
from lepton_tvm.kernels.register_tile import RegisterTile, dividing_tile, ranked_tiles
from lepton_tvm.kernels.winograd import WinogradShape, pack_winograd_weight, winograd_conv2d
from lepton_tvm.kernels.winograd_plan import WinogradPlan
from lepton_tvm.schedules.x86 import WINOGRAD_CONV2D
from lepton_tvm.targets import ISAS, Isa, best_isa
from tests.support.answers import Answer
from tests.support.kernels import conv2d_reference, needs, operands, run_kernel
from tests.support.winograd_cases import WINOGRAD_SHAPES

# Of the largest output: the error of F(4x4) is about 4 times that of the plain sum.
TOLERANCE = {2: 2e-6, 4: 1e-5}


def _shape(conv: ConvShape, size: int, group: int, isa: str) -> tuple[WinogradShape, RegisterTile]:
    tile = dividing_tile(group, conv.out_channels, ISAS[isa])
    made = replace(conv, rows=tile.rows, block=tile.channels)
    return WinogradShape(made, size, group), tile


def _conv(
    batch: int, size: tuple[int, int], padding: tuple[int, int, int, int], c: int, k: int
) -> ConvShape:
    return ConvShape(batch, *size, c, k, (3, 3), (1, 1), padding, (1, 1), 1, dot=1, rows=1, block=k)


@pytest.mark.parametrize("group", [1, 4, 0], ids=["single", "fours", "all"])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("isa", ["avx2", "vnni"])
@pytest.mark.parametrize(("batch", "h", "w", "padding", "c", "k"), WINOGRAD_SHAPES)
def test_convolution_equals_numpy(
    batch: int, h: int, w: int, padding: tuple[int, int, int, int], c: int, k: int,
    isa: str, size: int, group: int,
) -> None:  # fmt: skip
    needs(isa)
    lanes = ISAS[isa].lanes
    conv = _conv(batch, (h, w), padding, c * lanes, k * lanes)
    tiles = WinogradShape(conv, size, 1).tiles
    shape, tile = _shape(conv, size, group or tiles, isa)
    rng = np.random.default_rng(h * w)
    x, weight = operands(rng, False, (batch, h, w, c * lanes), (3, 3, c * lanes, k * lanes))
    got = run_kernel(
        lambda a, b: winograd_conv2d(a, b, shape, tile),
        WINOGRAD_CONV2D, isa, x, pack_winograd_weight(weight, shape),
    )  # fmt: skip
    want = conv2d_reference(x, weight, conv)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE[size] * np.abs(want).max())


def test_every_choice_computes_the_same() -> None:
    isa = best_isa().name
    lanes = ISAS[isa].lanes
    conv = _conv(1, (12, 16), (1, 1, 1, 1), lanes, 2 * lanes)
    shape, tile = _shape(conv, 4, 6, isa)
    x, weight = operands(
        np.random.default_rng(1), False, (1, 12, 16, lanes), (3, 3, lanes, 2 * lanes)
    )
    want = conv2d_reference(x, weight, conv)

    def run(choices: Answer) -> Array:
        return run_kernel(
            lambda a, b: winograd_conv2d(a, b, shape, tile),
            WINOGRAD_CONV2D, isa, x, pack_winograd_weight(weight, shape), choices,
        )  # fmt: skip

    first = Answer()
    run(first)
    assert len(first.asked["rows"][0]) > 1
    for name, (candidates, _) in first.asked.items():
        for value in candidates:
            got = run(Answer(name, value))
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def default_plan(conv: ConvShape, isa: Isa, cores: int) -> WinogradPlan | None:
    """What a convolution takes without a search: a Winograd plan or None."""
    tiles = ranked_tiles(conv.out_width, conv.out_channels, isa)
    return conv_plans(conv, tiles, isa, cores, winograd=True)[0].winograd


@pytest.mark.parametrize("isa", ["sse", "avx2", "vnni"])
def test_the_plan_takes_large_images_and_leaves_what_transforms_cannot_pay(isa: str) -> None:
    level = ISAS[isa]
    large = default_plan(_conv(1, (56, 56), (1, 1, 1, 1), 64, 64), level, 2)
    assert large is not None
    assert large.shape.size == 4
    assert large.shape.group % large.tile.rows == 0
    assert large.shape.products < large.shape.conv.macs / 3
    one_pixel = _conv(1, (1, 1), (1, 1, 1, 1), 512, 512)
    assert default_plan(one_pixel, level, 2) is None


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 2},
        {"kernel": (5, 5)},
        {"strides": (2, 2)},
        {"dilation": (2, 2)},
        {"groups": 2},
        {"channels": 67},
        {"out_channels": 67},
        {"dot": 4},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_convolutions_have_no_plan(change: dict[str, object]) -> None:
    conv = _conv(1, (56, 56), (1, 1, 1, 1), 64, 64)
    assert default_plan(conv, ISAS["vnni"], 1) is not None
    assert default_plan(replace(conv, **change), ISAS["vnni"], 1) is None  # type: ignore[arg-type]
