"""The loops that measure peaks do the work they are timed for, and results are whole."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from lepton_tvm.errors import InputError
from lepton_tvm.measure import Rounds, this_machine
from lepton_tvm.measure.caches import cache_bytes
from lepton_tvm.measure.peak.amx_chains import TILE_CHAINS, TILE_WORDS, tile_func
from lepton_tvm.measure.peak.chains import CHAINS, Chain, chain_func, chains_of
from lepton_tvm.measure.peak.measure_peak import compiled, measure_peaks
from lepton_tvm.measure.peak.peak_result import Bandwidth, ComputePeak, Peaks
from lepton_tvm.measure.peak.reads import SUMS, levels, read_func
from lepton_tvm.measure.pinning import pinned, waited
from lepton_tvm.runtime.net import aligned_copy
from lepton_tvm.targets import ISAS, best_isa, cpu_flags, parse_target
from tests.support import isa_emulator as emulator

Array = npt.NDArray[Any]
SLICES, STEPS = 3, 5


def name(chain: Chain) -> str:
    return f"{chain.isa} {chain.instruction}"


def words(array: Array) -> Array:
    """The same bytes as int32, at an address fit for whole registers."""
    return aligned_copy(np.ascontiguousarray(array).view(np.int32).reshape(array.shape[0], -1))


def run(chain: Chain, a: Array, b: Array, c: Array) -> Array:
    """c after the chain's loop, in c's own type; skips where the machine cannot run it."""
    if reason := emulator.prepare(chain.isa):
        pytest.skip(reason)
    make: Callable[[Chain, int], Any] = tile_func if chain.tiles else chain_func
    function = compiled(make(chain, SLICES), parse_target(f"x86:{chain.isa}"))
    out = words(c)
    function(words(a[None])[0], words(b[None])[0], out, STEPS)
    return out.view(c.dtype)


@pytest.mark.parametrize("chain", CHAINS, ids=name)
def test_chain_equals_numpy(chain: Chain) -> None:
    rng = np.random.default_rng(0)
    n, m = chain.lanes, chain.words
    if chain.precision == "float32":
        a = rng.choice(np.array([0.5, 1, 2], "float32"), n)
        b, c = (rng.integers(-8, 9, s).astype("float32") for s in (m, (SLICES, m)))
        expected = c.reshape(SLICES, -1, n)
        for _ in range(STEPS):
            expected = expected * a + b[:n]
    elif chain.precision == "bfloat16":
        a, b = (rng.integers(-8, 9, 2 * s).astype(ml_dtypes.bfloat16) for s in (n, m))
        c = rng.integers(-8, 9, (SLICES, m)).astype("float32")
        products = (a.astype("float32") * b[: 2 * n].astype("float32")).reshape(n, 2).sum(-1)
        expected = c.reshape(SLICES, -1, n) + STEPS * products
    else:
        a, b = (rng.integers(0, 256, 4 * s).astype(np.uint8) for s in (n, m))
        c = rng.integers(-(2**31), 2**31, (SLICES, m)).astype(np.int32)
        expected = c.reshape(SLICES, -1, n) + integer_sums(chain, a, b)
    np.testing.assert_array_equal(run(chain, a, b, c), expected.reshape(SLICES, m))


def integer_sums(chain: Chain, a: Array, b: Array) -> Array:
    """What STEPS steps add: [registers, lanes], or [lanes] where all registers get the same."""
    n = chain.lanes
    if chain.instruction == "vpdpbusd":
        products = a.astype(np.int32) * b[: 4 * n].view(np.int8)
        added: Array = (STEPS * products.reshape(n, 4).sum(-1)).astype(np.int32)
        return added
    total = np.zeros((chain.sums, n), np.int32)
    moved = a.view(np.int32)
    for _ in range(STEPS):
        moved = moved + moved
        if chain.instruction == "pmaddwd":
            products = moved.view(np.int16) * b.view(np.int16).reshape(chain.sums, -1).astype("i4")
        else:
            products = byte_pairs(chain, moved, b) + byte_pairs(chain, ~moved, b)
            products = products.astype("i4")
        total += products.reshape(chain.sums, n, 2).sum(-1, dtype=np.int32)
    return total


def byte_pairs(chain: Chain, a: Array, b: Array) -> Array:
    """Sums of neighbouring byte products as int16, which saturate."""
    products = a.view(np.uint8) * b.view(np.int8).reshape(chain.sums, -1).astype("i4")
    pairs = products.reshape(chain.sums, -1, 2).sum(-1)
    clipped: Array = np.clip(pairs, -(2**15), 2**15 - 1).astype(np.int16)
    return clipped


@pytest.mark.parametrize("chain", TILE_CHAINS, ids=name)
def test_tile_chain_equals_numpy(chain: Chain) -> None:
    rng = np.random.default_rng(0)
    if chain.precision == "int8":
        a, b = (rng.integers(0, 256, 4 * TILE_WORDS).astype(np.uint8) for _ in "ab")
        c = rng.integers(-1000, 1000, (SLICES, chain.words)).astype(np.int32)
        left, right, group = a.astype(np.int32), b.view(np.int8).astype(np.int32), 4
    else:
        a, b = (rng.integers(-4, 5, 2 * TILE_WORDS).astype(ml_dtypes.bfloat16) for _ in "ab")
        c = rng.integers(-8, 9, (SLICES, chain.words)).astype("float32")
        left, right, group = a.astype("float32"), b.astype("float32"), 2
    columns = right.reshape(16, 16, group).transpose(0, 2, 1).reshape(16 * group, 16)
    product = (left.reshape(16, 16 * group) @ columns) * STEPS
    expected = c.reshape(SLICES, chain.tiles, 16, 16) + product
    np.testing.assert_array_equal(run(chain, a, b, c), expected.reshape(c.shape))


@pytest.mark.parametrize("chain", [*CHAINS, *TILE_CHAINS], ids=name)
def test_operations_are_counted_as_the_instruction_does_them(chain: Chain) -> None:
    factor_bytes = {"float32": 4, "bfloat16": 2, "int8": 1}[chain.precision]
    per_lane = 4 // factor_bytes * (16 if chain.tiles else 1)
    per_lane = {"pmaddwd": 2, "pmaddubsw": 8}.get(chain.instruction, per_lane)
    assert chain.macs == per_lane
    assert chain.ops_per_step == 2 * per_lane * chain.words


def test_reading_sums_every_word() -> None:
    lanes, steps, times = best_isa().lanes, 7, 3
    n = SUMS * lanes * steps
    data = aligned_copy(np.random.default_rng(0).integers(-99, 99, (SLICES, n)).astype(np.int32))
    sums = aligned_copy(np.zeros((SLICES, SUMS * lanes), np.int32))
    compiled(read_func(lanes, n, SLICES), parse_target("native"))(data, sums, times)
    expected = times * data.reshape(SLICES, steps, -1).sum(1)
    np.testing.assert_array_equal(sums, expected)


def test_levels_lie_in_their_caches() -> None:
    sizes = cache_bytes()
    for threads in (1, 4):
        found = levels(threads)
        assert found["L1"] < sizes[1]
        assert sizes[1] < found["L2"] < sizes[2]
        assert found["memory"] * threads > sizes[3] > found["L3"] * threads


def test_cache_sizes_are_read(tmp_path: Path) -> None:
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "64K"), ("2", "Unified", "2M"), ("9", "", "?")]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for file, text in (("level", level), ("type", kind), ("size", size)):
            (folder / file).write_text(f"{text}\n")
    found = cache_bytes(tmp_path)
    assert (found[1], found[2]) == (48 << 10, 2 << 20)
    assert found[3] > 0, "a level that is not told has a usual size"


def test_measured_peaks_are_whole() -> None:
    before = os.sched_getaffinity(0)
    quick = Rounds(least=2, most=2, budget_s=0.01, warmup_s=0)
    peaks = measure_peaks(rounds=quick)
    assert os.sched_getaffinity(0) == before, "threads are let go"
    assert peaks.threads == tuple(sorted({1, len(before)}))
    assert {p.instruction for p in peaks.compute} >= {c.instruction for c in chains_of(cpu_flags())}
    assert {p.isa for p in peaks.compute} <= set(ISAS)
    assert [m.level for m in peaks.memory] == ["L1", "L2", "L3", "memory"]
    for count in peaks.threads:
        assert all(p.gops[count] > 0 for p in peaks.compute)
        assert all(m.gbs[count] > 0 for m in peaks.memory)
    shown = json.loads(json.dumps(peaks.to_json()))
    assert set(shown) == {"threads", "scaling", "compute", "memory"}
    assert set(shown["compute"][0]["gops"]) == {str(n) for n in peaks.threads}
    assert "read from memory" in str(peaks)


@pytest.mark.parametrize("threads", [0, True, 1.5])
def test_bad_threads(threads: Any) -> None:
    with pytest.raises(InputError, match="whole numbers of at least 1"):
        measure_peaks([threads])


def two_cpus(rate: float) -> Peaks:
    """Peaks of a machine whose two threads do `rate` times the work of one."""
    return Peaks(
        this_machine(),
        (1, 2),
        (ComputePeak("avx2", "float32", "fma", 256, {1: 100.0, 2: 100.0 * rate}),),
        tuple(
            Bandwidth(level, {1: size, 2: size // share}, {1: speed, 2: speed})
            for level, size, share, speed in (
                ("L1", 16_000, 1, 200.0),
                ("L2", 500_000, 1, 100.0),
                ("L3", 8_000_000, 2, 50.0),
                ("memory", 128_000_000, 2, 20.0),
            )
        ),
    )


@pytest.mark.parametrize(
    ("rate", "said"), [(1.97, "like 2 cores"), (1.1, "like one core"), (1.4, "about 1 cores")]
)
def test_scaling_is_said(rate: float, said: str) -> None:
    peaks = two_cpus(rate)
    assert peaks.scaling == pytest.approx(rate)
    assert said in str(peaks.scaling_text)


def test_one_thread_says_nothing_of_scaling() -> None:
    alone = dataclasses.replace(two_cpus(1.0), threads=(1,))
    assert (alone.scaling, alone.scaling_text) == (None, None)


def test_bandwidth_is_of_the_level_that_holds_the_bytes() -> None:
    peaks = two_cpus(2.0)
    sizes = (30_000, 900_000, 30_000_000, 300_000_000)
    assert [peaks.gbs(n, 1) for n in sizes] == [200.0, 100.0, 50.0, 20.0]
    assert [peaks.gbs(n, 2) for n in (60_000, 1_900_000)] == [200.0, 100.0]


def test_busy_threads_get_cpus_of_their_own() -> None:
    before = os.sched_getaffinity(0)
    last = max(before)
    with pinned(lambda: sum(range(300_000)), 1, [last]) as threads:
        if not threads:
            pytest.skip("this system does not tell the CPU times of threads")
        assert os.sched_getaffinity(threads[0]) == {last}
    assert os.sched_getaffinity(0) == before


def test_waiting_for_a_cpu_is_seen() -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this system does not tell how long threads wait for a CPU")
    cpus = os.sched_getaffinity(0)
    busy = (
        "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); print(flush=True)\nwhile 1: 1"
    )
    other = subprocess.Popen([sys.executable, "-c", busy, str(max(cpus))], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        os.sched_setaffinity(0, {max(cpus)})
        before, end = waited(), time.perf_counter() + 0.2
        while time.perf_counter() < end:
            pass
        assert waited() - before > 0.01
    finally:
        os.sched_setaffinity(0, cpus)
        other.kill()
        other.communicate()
