"""Every choice that a template offers computes the same numbers as its default."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_tvm.kernels.conv2d import conv2d, pack_conv2d_weight
from lepton_tvm.kernels.depthwise import depthwise_conv2d, pack_depthwise_weight
from lepton_tvm.kernels.register_tile import choose_channel_tile, choose_tile, tile_cost
from lepton_tvm.schedules.x86 import CONV2D, DEPTHWISE_CONV2D
from lepton_tvm.targets import ISAS, best_isa
from tests.support.answers import Answer
from tests.support.conv2d_cases import case
from tests.support.kernels import UNITS, conv2d_reference, largest_weight, operands, run_kernel


@pytest.mark.parametrize("integer", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("depthwise", [False, True], ids=["plain", "depthwise"])
def test_every_choice_computes_the_same(integer: bool, depthwise: bool) -> None:
    isa = best_isa().name
    size = (1, 12, 14, 16, 16) if depthwise else (1, 12, 14, 8, 48)
    dot = 4 if integer else 1
    shape, tile = case("3x3 same", size, isa, dot, 16 if depthwise else 1)
    x, w = operands(
        np.random.default_rng(7),
        integer,
        size[:4],
        (3, 3, shape.group_in, shape.out_channels),
        largest_weight(isa, dot),
    )
    packed = pack_depthwise_weight(w, shape) if depthwise else pack_conv2d_weight(w, shape)
    made = depthwise_conv2d if depthwise else conv2d
    rule = DEPTHWISE_CONV2D if depthwise else CONV2D
    want = conv2d_reference(x, w, shape)
    first = Answer()
    run_kernel(lambda a, b: made(a, b, shape, tile), rule, isa, x, packed, first)
    assert first.asked, "the template offers no choice"
    for name, (candidates, _) in first.asked.items():
        for value in candidates:
            got = run_kernel(
                lambda a, b: made(a, b, shape, tile),
                rule, isa, x, packed, Answer(name, value),
            )  # fmt: skip
            np.testing.assert_allclose(got, want, rtol=0, atol=0 if integer else 1e-4)


@pytest.mark.parametrize(("isa", "dot"), UNITS)
def test_tiles_fit_the_registers_and_divide_where_they_must(isa: str, dot: int) -> None:
    level = ISAS[isa]
    for extent in (1, 7, 13, 56, 112):
        for channels in (1, 3, 16, 24, 40, 72, 1000):
            tile = choose_tile(extent, channels, level, dot)
            assert tile.rows * tile.vectors < level.registers
            assert tile.rows <= extent
            assert tile_cost(tile, extent, channels) > 0
            assert channels % choose_channel_tile(extent, channels, level).channels == 0


def test_rows_that_share_a_cache_set_are_few() -> None:
    free = choose_tile(14, 1024, ISAS["vnni"])
    assert free.rows > 7
    assert choose_tile(14, 1024, ISAS["vnni"], row_bytes=4096).rows <= 7
    assert choose_tile(14, 1024, ISAS["vnni"], row_bytes=3 * 4096).rows <= 7
    assert choose_tile(14, 1024, ISAS["vnni"], row_bytes=2048 + 64) == free


def test_tiles_read_far_weights_for_several_rows() -> None:
    near = choose_tile(7, 512, ISAS["avx2"], 8, weight_bytes=64)
    far = choose_tile(7, 512, ISAS["avx2"], 8, weight_bytes=4608)
    assert near.rows == 1
    assert far.rows == 7
