"""The emulator of missing instructions, by hand-assembled code against NumPy."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from lepton_tvm.targets import ISAS, cpu_flags
from tests.support import isa_emulator as emulator
from tests.support.assembly import (
    DOT_BF16,
    DOTS,
    LOAD_A,
    LOAD_B,
    LOAD_BEFORE,
    LOAD_CONFIG,
    RELEASE,
    RETURN,
    STORE,
    STORE_CONFIG,
    ZERO,
    Array,
    assembled,
    configuration,
    packed,
)


@pytest.fixture(autouse=True)
def _emulation() -> None:
    for isa in ("amx", "avxvnni"):
        if cpu_flags().issuperset(ISAS[isa].flags):
            pytest.skip("this CPU has the instructions itself: nothing is emulated")
        if reason := emulator.prepare(isa):
            pytest.skip(reason)


def run(code: str, config: Array, a: Array, b: Array, before: Array) -> Array:
    """before + a b, all lines 64 bytes apart."""
    out, stored = before.copy(), np.full(64, 255, np.uint8)
    function = assembled(
        LOAD_CONFIG, STORE_CONFIG, ZERO, LOAD_BEFORE, LOAD_A, LOAD_B, code,
        STORE, RELEASE, RETURN,
    )  # fmt: skip
    pointers = [x.ctypes.data for x in (config, a, b)]
    function(*pointers[:3], 64, out.ctypes.data, stored.ctypes.data)
    np.testing.assert_array_equal(stored, config)
    return out


@pytest.mark.parametrize("types", list(DOTS), ids=lambda t: f"{t[0]} x {t[1]}")
@pytest.mark.parametrize(("rows", "depth", "columns"), [(16, 64, 16), (1, 4, 1), (7, 36, 11)])
def test_integer_dot_equals_numpy(
    types: tuple[str, str], rows: int, depth: int, columns: int
) -> None:
    rng = np.random.default_rng(rows)
    a = np.zeros((16, 64), types[0])
    low = [np.iinfo(t).min for t in types]
    high = [np.iinfo(t).max + 1 for t in types]
    a[:rows, :depth] = rng.integers(low[0], high[0], (rows, depth))
    b = rng.integers(low[1], high[1], (depth, columns)).astype(types[1])
    before = rng.integers(-1000, 1000, (16, 16)).astype(np.int32)
    got = run(DOTS[types], configuration(rows, depth, columns), a, packed(b, 4), before)
    want = before.copy()
    want[:rows, :columns] += a[:rows, :depth].astype(np.int32) @ b.astype(np.int32)
    np.testing.assert_array_equal(got, want)
    assert not emulator.configured()


def test_bfloat16_dot_equals_numpy() -> None:
    rng = np.random.default_rng(3)
    rows, depth, columns = 9, 22, 16
    # small whole numbers: exact in bfloat16, and so are the sums in float32
    a = rng.integers(-8, 9, (16, 32)).astype(np.float32)
    b = rng.integers(-8, 9, (depth, columns)).astype(np.float32)
    halves = [(x.view(np.uint32) >> 16).astype(np.uint16) for x in (a, b)]
    before = rng.integers(-9, 9, (16, 16)).astype(np.float32)
    got = run(
        DOT_BF16, configuration(rows, 2 * depth, columns), halves[0], packed(halves[1], 2), before
    )
    want = before.copy()
    want[:rows] += a[:rows, :depth] @ b
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("wide", [False, True], ids=["xmm", "ymm"])
def test_vector_dot_equals_numpy(wide: bool) -> None:
    rng = np.random.default_rng(4)
    lanes = 8 if wide else 4
    a = rng.integers(0, 256, 32).astype(np.uint8)
    b = rng.integers(-128, 128, 32).astype(np.int8)
    c = rng.integers(-(2**31), 2**31, 8).astype(np.int32)
    out = c.copy()
    code = (
        "c5 fe 6f 07"  # vmovdqu ymm0, [rdi]
        "c5 fe 6f 0e"  # vmovdqu ymm1, [rsi]
        + ("c4 e2 75" if wide else "c4 e2 71")
        + "50 02"  # {vex} vpdpbusd ?mm0, ?mm1, [rdx]
        "c5 fe 7f 01"  # vmovdqu [rcx], ymm0
    )
    assembled(code, RETURN)(
        c.ctypes.data, a.ctypes.data, b.ctypes.data, out.ctypes.data, None, None
    )
    sums = (a.astype(np.int64) * b).reshape(8, 4).sum(axis=1)
    want = (c + sums).astype(np.int32)
    want[lanes:] = 0
    np.testing.assert_array_equal(out, want)


_ALONE = """
    from tests.support import isa_emulator as emulator
    from tests.support.assembly import *
    assert emulator.prepare("amx") is None
    config = configuration(16, 64, 16)
    memory = np.zeros((16, 64), np.uint8)
    {change}
    pointers = [x.ctypes.data for x in (config, memory, memory)]
    assembled({code}, RETURN)(*pointers, 64, memory.ctypes.data, None)
"""


@pytest.mark.parametrize(
    ("change", "code", "dies"),
    [
        ("", "LOAD_CONFIG, ZERO, RELEASE", False),
        ("", "ZERO", True),
        ("", "LOAD_CONFIG, RELEASE, LOAD_A", True),
        ("config[49] = 15", "LOAD_CONFIG, ZERO, LOAD_A, LOAD_B, DOT_BF16", True),
        ("config[60] = 1", "LOAD_CONFIG", True),
        ("config[0] = 2", "LOAD_CONFIG", True),
        ("", "'0f 0b'", True),
    ],
    ids=[
        "in order", "no configuration", "released", "rows that differ", "reserved bits",
        "unknown palette", "ud2",
    ],
)  # fmt: skip
def test_what_the_hardware_refuses_is_refused(change: str, code: str, dies: bool) -> None:
    script = textwrap.dedent(_ALONE).format(change=change, code=code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == (-4 if dies else 0), done.stderr
