"""Products over AMX tiles against NumPy: every tiling, odd shapes, threads (emulated if needed)."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import te

from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.amx_plan import conv2d_geometries, plan_conv2d, plan_matmul, tilings
from lepton_tvm.kernels.amx_tiles import TILES, AmxShape, pack_tile_weight, tile_product
from lepton_tvm.kernels.conv2d import ConvShape
from lepton_tvm.runtime.threads import run_with_threads
from lepton_tvm.schedules.base import Choices, Defaults
from lepton_tvm.schedules.x86.amx import AmxProduct
from lepton_tvm.targets import parse_target
from tests.support import isa_emulator as emulator
from tests.support.answers import Answer
from tests.support.assembly import LOAD_CONFIG, RETURN, assembled, configuration
from tests.support.conv2d_cases import SIZES, WINDOWS
from tests.support.kernels import conv2d_reference, needs, operands, run_kernel
from tests.support.product_cases import PRODUCTS

DOTS = pytest.mark.parametrize("dot", [4, 2], ids=["int8", "bfloat16"])


@pytest.fixture(autouse=True)
def _tiles() -> None:
    needs("amx")


def convolution(window: str, size: tuple[int, ...], dot: int) -> ConvShape:
    kernel, strides, padding, dilation = WINDOWS[window]
    n, h, w, c, k = size
    return ConvShape(
        n, h, w, c, k, kernel, strides, padding, dilation, 1, dot, rows=1, block=1,
        pad_value=3 if dot == 4 else 0, bfloat16=dot == 2,
    )  # fmt: skip


def data(dot: int, x: Sequence[int], w: Sequence[int]) -> tuple[Array, Array]:
    activations, weights = operands(np.random.default_rng(math.prod(x)), dot == 4, x, w)
    if dot == 4:
        return activations, weights
    return activations.astype(ml_dtypes.bfloat16), weights.astype(ml_dtypes.bfloat16)


def check(
    shape: AmxShape, kernel: str, x: Array, w: Array, want: Array, choices: Choices | None = None
) -> None:
    taps = w.reshape(*shape.taps, shape.depth, shape.columns)
    assert AmxShape.from_json(shape.to_json()) == shape
    used = shape.sum_registers + shape.left_registers + shape.right_registers
    assert used <= TILES
    got = run_kernel(
        lambda a, b: tile_product(a, b, shape, kernel),
        AmxProduct(), "amx", x, pack_tile_weight(taps, shape), choices,
    )  # fmt: skip
    # sums of products of unit variance in float32; integers are exact
    terms = math.prod(shape.taps) * shape.depth
    tolerance = 0 if shape.dot == 4 else terms * 16 * 2.0**-24 + 1e-6
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)


def check_convolution(s: ConvShape, shapes: Sequence[AmxShape]) -> None:
    x, w = data(
        s.dot, (s.batch, s.height, s.width, s.channels), (*s.kernel, s.channels, s.out_channels)
    )
    want = conv2d_reference(x.astype(np.float64), w.astype(np.float64), s)
    for shape in shapes:
        check(shape, "conv2d", x, w, want)


@DOTS
@pytest.mark.parametrize("window", list(WINDOWS))
def test_convolution_equals_numpy(window: str, dot: int) -> None:
    for size in [*SIZES, (3, 9, 11, 24, 33)]:
        s = convolution(window, size, dot)
        check_convolution(s, [next(tilings(g)) for g in conv2d_geometries(s, dot)])


@DOTS
def test_every_tiling_equals_numpy(dot: int) -> None:
    s = convolution("3x3 stride 2, asymmetric", (1, 19, 37, 20, 75), dot)
    shapes = [t for g in conv2d_geometries(s, dot) for t in tilings(g)]
    assert {(t.row_tiles, t.column_tiles) for t in shapes} >= {(2, 2), (1, 4), (4, 1), (1, 1)}
    check_convolution(s, shapes)


@DOTS
@pytest.mark.parametrize(("leading", "depth", "columns"), [*PRODUCTS, ((40,), 160, 72)])
def test_product_equals_numpy(leading: tuple[int, ...], depth: int, columns: int, dot: int) -> None:
    x, w = data(dot, (*leading, depth), (depth, columns))
    want = x.astype(np.float64) @ w.astype(np.float64)
    check(plan_matmul(leading, depth, columns, dot).shape, "matmul", x, w, want)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_choice_computes_the_same(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_TVM_CORES", "2")
    s = convolution("3x3 same", (1, 30, 28, 64, 96), 4)
    shape = plan_conv2d(s, 4).shape
    x, w = data(4, (1, 30, 28, 64), (3, 3, 64, 96))
    want = conv2d_reference(x, w, s)
    first = Answer()
    check(shape, "conv2d", x, w, want, first)
    outermost = Answer("column_blocks_outermost", 1)
    check(shape, "conv2d", x, w, want, outermost)
    assert set(first.asked) == {"column_blocks_outermost", "shares"}
    assert set(outermost.asked) == {*first.asked, "prefetch_weights"}
    assert len(first.asked["shares"][0]) > 2
    for name, (candidates, _) in first.asked.items():
        for value in candidates:
            before = [emulator.count(k) for k in ("ldtilecfg", "tilerelease")]
            answer = Answer(name, value)
            run_with_threads(threads, partial(check, shape, "conv2d", x, w, want, answer))
            if not emulator.emulated("amx"):
                continue
            # every share, whichever thread takes it, configures its tiles and releases them
            after = [emulator.count(k) for k in ("ldtilecfg", "tilerelease")]
            shares = value if name == "shares" else answer.asked["shares"][1]
            assert [a - b for a, b in zip(after, before, strict=True)] == [shares, shares]
            assert not emulator.configured()


@pytest.mark.parametrize("value", [0, 1])
def test_weights_fetched_ahead_change_nothing(value: int) -> None:
    shape = plan_matmul((1, 9, 9), 130, 200, 4).shape
    assert shape.column_blocks > 1
    x, w = data(4, (1, 9, 9, 130), (130, 200))
    answer = Answer("prefetch_weights", value)
    check(shape, "matmul", x, w, x.astype(np.float64) @ w.astype(np.float64), answer)
    assert answer.asked["prefetch_weights"] == ([0, 1], 1)


def test_the_step_over_the_depth_is_only_loads_and_products() -> None:
    """No copies of registers, no spills: what stands between clearing and storing the sums."""
    shape = plan_matmul((1, 14, 14), 1024, 256, 4).shape
    assert (shape.row_tiles, shape.column_tiles, shape.steps) == (2, 2, 16)
    target = parse_target("x86:amx")
    x = te.placeholder((1, 14, 14, 1024), "uint8", "x")
    w = te.placeholder(shape.weight_shape, "int8", "w")
    func = te.create_prim_func([x, w, tile_product(x, w, shape, "matmul")])
    sch = AmxProduct().apply(func, target, Defaults())
    assert sch is not None
    text = tvm.compile(sch.mod, target=target.tvm).mod.inspect_source("asm")
    cleared, stored = text.rindex("tilezero"), text.index("tilestored")
    lines = [line.split("#")[0].strip() for line in text[cleared:stored].splitlines()[1:]]
    code = [c for c in lines if c and not c.startswith(".") and not c.endswith(":")]
    allowed = r"tileloadd|tdpbusd|prefetch|add|sub|lea|inc|dec|mov[lq]|xorl|cmp|test|j[a-z]+"
    assert [c for c in code if not re.match(allowed, c) or "%rsp" in c] == []
    loads, products = (sum(c.startswith(n) for c in code) for n in ("tileloadd", "tdpbusd"))
    assert loads == products > 0


def test_what_tiles_do_not_speed_up_stays_with_vectors() -> None:
    assert not plan_matmul((1,), 1280, 1000, 4).pays
    assert not plan_matmul((5, 5), 17, 1, 4).pays
    assert plan_matmul((1, 14, 14), 1024, 256, 4).pays
    assert plan_conv2d(convolution("3x3 same", (1, 28, 28, 128, 128), 4), 4).pays


def test_geometry_of_short_lines_is_counted_through() -> None:
    short = plan_conv2d(convolution("3x3 same", (1, 7, 7, 512, 512), 4), 4).shape
    long = plan_conv2d(convolution("3x3 same", (1, 56, 56, 64, 64), 4), 4).shape
    assert (short.pitch, short.tile_rows) == (9, 16)
    assert (long.pitch, long.tile_rows) == (0, 14)
    assert dataclasses.replace(long, tile_rows=16).line_tiles == 4


def test_a_configuration_of_the_programs_own_is_released() -> None:
    if not emulator.emulated("amx"):
        pytest.skip("this CPU has tiles itself: the emulator sees nothing of them")
    x, w = data(4, (16, 64), (64, 16))
    own = configuration(3, 8, 5)
    assembled(LOAD_CONFIG, RETURN)(own.ctypes.data, *[None] * 5)
    assert emulator.configured()
    want = x.astype(np.float64) @ w.astype(np.float64)
    check(plan_matmul((16,), 64, 16, 4).shape, "matmul", x, w, want)
    assert not emulator.configured()


_REFUSED = """
import numpy as np
from lepton_tvm.kernels.amx_plan import plan_matmul
from tests.support import isa_emulator as emulator
from tests.schedules.test_amx import check
assert emulator.library().emulator_answer_permission(1) == 0
x, w = np.ones((16, 64), np.uint8), np.ones((64, 16), np.int8)
try:
    check(plan_matmul((16,), 64, 16, 4).shape, "matmul", x, w, np.full((16, 16), 64))
except RuntimeError as error:
    print(error)
"""


def test_a_refusal_of_the_system_is_an_error_of_the_call() -> None:
    done = subprocess.run([sys.executable, "-c", _REFUSED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "this process may not use AMX tiles" in done.stdout
