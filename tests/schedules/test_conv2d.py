"""Convolutions, plain, grouped and depthwise: exact in int8, to rounding in float32, odd shapes."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_tvm.kernels.conv2d import ConvShape, conv2d, pack_conv2d_weight
from lepton_tvm.kernels.depthwise import (
    depthwise_conv2d,
    pack_depthwise_weight,
    reads_in_place,
)
from lepton_tvm.kernels.depthwise_int8 import lines_per_word
from lepton_tvm.kernels.register_tile import RegisterTile
from lepton_tvm.schedules.x86 import CONV2D, DEPTHWISE_CONV2D
from lepton_tvm.targets import best_isa
from tests.support.conv2d_cases import SIZES, WINDOWS, case
from tests.support.kernels import UNITS as ALL_UNITS
from tests.support.kernels import (
    conv2d_reference,
    largest_weight,
    needs,
    operands,
    run_kernel,
)

# Several words at once change the packing and the innermost loops only: few cases show it.
WORDS = [u for u in ALL_UNITS if u[1] > 4]
UNITS = [u for u in ALL_UNITS if u[1] <= 4]


def check(shape: ConvShape, tile: RegisterTile, isa: str, depthwise: bool, seed: int) -> None:
    needs(isa)
    x, w = operands(
        np.random.default_rng(seed),
        shape.dot > 1,
        (shape.batch, shape.height, shape.width, shape.channels),
        (*shape.kernel, shape.group_in, shape.out_channels),
        largest_weight(isa, shape.dot),
    )
    packed = pack_depthwise_weight(w, shape) if depthwise else pack_conv2d_weight(w, shape)
    made = depthwise_conv2d if depthwise else conv2d
    got = run_kernel(
        lambda a, b: made(a, b, shape, tile),
        DEPTHWISE_CONV2D if depthwise else CONV2D,
        isa,
        x,
        packed,
    )
    want = conv2d_reference(x, w, shape)
    if shape.dot > 1:
        np.testing.assert_array_equal(got, want)
    else:
        # rounding of a sum of `terms` products of unit variance
        terms = shape.group_in * shape.kernel[0] * shape.kernel[1]
        np.testing.assert_allclose(got, want, rtol=0, atol=terms * 16 * 2.0**-24 + 1e-6)


@pytest.mark.parametrize(("isa", "dot"), UNITS)
@pytest.mark.parametrize("window", list(WINDOWS))
def test_plain_convolution_equals_numpy(window: str, isa: str, dot: int) -> None:
    for seed, size in enumerate(SIZES):
        shape, tile = case(window, size, isa, dot, 1)
        check(shape, tile, isa, False, seed)


@pytest.mark.parametrize(("isa", "dot"), UNITS)
@pytest.mark.parametrize("window", ["3x3 same", "3x3 stride 2, asymmetric", "3x3 dilated"])
def test_grouped_convolution_equals_numpy(window: str, isa: str, dot: int) -> None:
    for seed, (n, h, w, c, k) in enumerate(SIZES[:2]):
        shape, tile = case(window, (n, h, w, 4 * c, 4 * k), isa, dot, 4)
        check(shape, tile, isa, False, seed)


@pytest.mark.parametrize(("isa", "dot"), UNITS)
@pytest.mark.parametrize("window", [w for w in WINDOWS if w != "1x1 stride 2"])
def test_depthwise_convolution_equals_numpy(window: str, isa: str, dot: int) -> None:
    sizes = [(1, 7, 9, 16), (2, 5, 13, 24), (1, 6, 113, 36), (1, 5, 7, 3)]
    for seed, (n, h, w, c) in enumerate(sizes):
        shape, tile = case(window, (n, h, w, c, c), isa, dot, c)
        check(shape, tile, isa, True, seed)


@pytest.mark.parametrize("isa", ["sse", "avx2", "vnni"])
@pytest.mark.parametrize("window", ["3x3 same", "3x3 stride 2, asymmetric"])
def test_depthwise_convolution_of_long_lines_equals_numpy(window: str, isa: str) -> None:
    """Too many tiles for code of their own: these are padded first."""
    shape, tile = case(window, (1, 3, 1003, 16, 16), isa, 1, 16)
    assert not reads_in_place(shape, tile.vectors)
    assert reads_in_place(case(window, (1, 3, 30, 16, 16), isa, 1, 16)[0], tile.vectors)
    check(shape, tile, isa, True, 0)


@pytest.mark.parametrize(("isa", "dot"), WORDS)
@pytest.mark.parametrize("groups", [1, 4])
def test_several_words_at_once_equal_numpy(groups: int, isa: str, dot: int) -> None:
    for seed, c in enumerate((5, 16, 32)):
        size = (1, 6, 13, groups * c, 12 * groups)
        shape, tile = case("3x3 stride 2, asymmetric", size, isa, dot, groups)
        check(shape, tile, isa, False, seed)


@pytest.mark.parametrize(
    ("kernel", "stride", "dot", "lines"),
    [
        (3, 1, 4, 2),
        (5, 1, 4, 2),
        (7, 1, 4, 2),
        (3, 2, 4, 1),
        (5, 2, 4, 2),
        (3, 1, 2, 2),
        (4, 1, 4, 1),
    ],
)  # fmt: skip
def test_lines_that_share_words_read_no_row_beyond_them(
    kernel: int, stride: int, dot: int, lines: int
) -> None:
    assert lines_per_word(kernel, stride, 1, dot) == lines
    rows = -(-kernel // dot) * dot
    assert (lines - 1) * stride + kernel <= rows
    assert lines == 2 or lines * stride + kernel > rows
    assert lines_per_word(kernel, stride, 2, dot) == 1


@pytest.mark.parametrize("height", [1, 2, 3, 8, 9])
def test_depthwise_lines_that_fill_no_group(height: int) -> None:
    isa = best_isa().name
    for window in ("3x3 same", "5x5 same"):
        shape, tile = case(window, (2, height, 9, 16, 16), isa, 4, 16)
        check(shape, tile, isa, True, height)
