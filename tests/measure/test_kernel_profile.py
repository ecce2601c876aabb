"""From times of calls to a profile: sums, shares and limits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lepton_tvm.measure import this_machine
from lepton_tvm.measure.kernel_profile import KernelTime, Profile, make_profile
from lepton_tvm.measure.peak.peak_result import Bandwidth, ComputePeak, Peaks

US = 1e-6
PEAKS = Peaks(
    this_machine(),
    (1,),
    (
        ComputePeak("avx2", "float32", "fma", 256, {1: 100.0}),
        ComputePeak("avx2", "int8", "pmaddwd", 256, {1: 150.0}),
        ComputePeak("avx512", "int8", "pmaddwd", 512, {1: 300.0}),
        ComputePeak("vnni", "int8", "vpdpbusd", 512, {1: 400.0}),
    ),
    (
        Bandwidth("L1", {1: 16_000}, {1: 200.0}),
        Bandwidth("L2", {1: 500_000}, {1: 100.0}),
        Bandwidth("L3", {1: 8_000_000}, {1: 50.0}),
        Bandwidth("memory", {1: 128_000_000}, {1: 20.0}),
    ),
)


def kernel(name: str, **changes: Any) -> dict[str, Any]:
    made = {
        "name": name, "op": name, "precision": "float32", "isa": "avx2", "instruction": "fma",
        "schedule": "x86.conv2d", "input_shapes": [[1, 8]], "output_shape": [1, 8], "calls": 1,
        "macs": 1_000_000, "multiplied": 1_000_000, "bytes": 20_000, "weight_bytes": 0,
    }  # fmt: skip
    return {**made, **changes}


def profile(kernels: list[dict[str, Any]], calls: list[str], times: list[list[float]]) -> Profile:
    manifest = {"precision": "float32", "isa": "avx2", "kernels": kernels}
    return make_profile(manifest, calls, times, 100 * US, PEAKS, 1)


def one(taken: float, **changes: Any) -> KernelTime:
    """The only kernel of a profile, which takes `taken` microseconds; timing costs 1."""
    found = profile([kernel("k", **changes)], ["k", "vm.x"], [[(taken + 1) * US, US]])
    return found.kernels[0]


def test_calls_of_one_kernel_are_added() -> None:
    kernels = [kernel("a", calls=2), kernel("b", macs=0, instruction=None)]
    rounds = [[11 * US, US, 31 * US, 21 * US], [11 * US, US, 31 * US, 21 * US], [99.0] * 4]
    found = profile(kernels, ["a", "vm.alloc", "a", "b"], rounds)
    assert [k.name for k in found.kernels] == ["a", "b"]
    a, b = found.kernels
    assert (a.calls, b.calls) == (2, 1)
    assert a.seconds == pytest.approx(40 * US)  # medians, less the shortest call
    assert b.seconds == pytest.approx(20 * US)
    assert a.share + b.share == pytest.approx(1)
    assert found.kernels_s == pytest.approx(60 * US)
    assert found.overhead == pytest.approx(0.4)
    assert a.gops == pytest.approx(2 * 2 * 1_000_000 / 40e-6 / 1e9)
    assert (b.gops, b.peak_share, b.bound) == (None, None, "memory")


def test_share_of_the_peak() -> None:
    found = one(40)
    assert found.gops == pytest.approx(50)
    assert found.peak_share == pytest.approx(0.5)
    assert (found.bound, found.limit_share) == ("compute", found.peak_share)


@pytest.mark.parametrize(
    ("changes", "peak"),
    [
        ({"precision": "int8", "instruction": "pmaddwd"}, 150.0),
        ({"precision": "int8", "instruction": "pmaddwd", "isa": "avx512"}, 300.0),
        ({"precision": "int8", "instruction": None, "isa": "vnni"}, 400.0),
        ({"precision": "int8", "instruction": None, "isa": "avx512"}, 300.0),
        ({"precision": "int8", "instruction": "tdpbusd", "isa": "amx"}, None),
    ],
)
def test_peak_is_of_the_instruction_and_target(changes: Any, peak: float | None) -> None:
    found = one(10, **changes)
    assert found.peak_share == (None if peak is None else pytest.approx(200 / peak))


def test_share_is_of_what_is_carried_out() -> None:
    found = one(10, multiplied=250_000)
    assert found.gops == pytest.approx(200)
    assert found.peak_share == pytest.approx(0.5)


def test_memory_counts_weights_where_all_weights_lie() -> None:
    # 20 kB of activations come from L1 (200 GB/s), 2 MB of weights from L3 (50 GB/s).
    found = one(100, macs=0, bytes=2_020_000, weight_bytes=2_000_000)
    assert found.gbs == pytest.approx(20.2)
    assert found.memory_share == pytest.approx((20_000 / 50 + 2_000_000 / 50) / 100_000)
    small = one(100, macs=0)
    assert small.memory_share == pytest.approx(20_000 / 200 / 100_000)
    assert small.bound == "memory"


def test_kernels_too_short_to_time_get_no_wild_rates() -> None:
    found = one(0, macs=50, multiplied=50, bytes=200)
    assert found.seconds == pytest.approx(0, abs=1e-12)
    assert found.gops == pytest.approx(1)
    assert found.limit_share < 0.1


def test_json_is_whole() -> None:
    shown = json.loads(json.dumps(profile([kernel("k")], ["k"], [[US], [US]]).to_json()))
    assert set(shown) == {
        "precision", "isa", "threads", "latency_ms", "kernels_ms", "overhead", "kernels",
    }  # fmt: skip
    assert set(shown["kernels"][0]) >= {
        "name", "calls", "us", "share", "gops", "peak_share", "gbs", "memory_share", "isa",
        "instruction", "schedule", "input_shapes", "output_shape", "bound", "limit_share",
    }  # fmt: skip
