"""Where the time of an artifact goes: its kernels beside what the machine could do at best.

A kernel's time has two lower limits: its multiply-adds at the peak of the instruction that it uses,
and its bytes at the bandwidth of the memory that they come from. Activations were just written, so
they are taken to lie in the smallest cache that holds all tensors of the call; weights were last
used one run ago, so they lie in the smallest level that holds the weights of the whole model.
Writes are counted as reads, and `limit_share` is the larger share: near 1, nothing is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_tvm.measure.peak.peak_result import Peaks
from lepton_tvm.targets import ISAS, Isa

__all__ = ["KernelTime", "Profile", "make_profile"]

# A shorter kernel cannot be told from the timing itself; its rates are lower limits.
_SHORTEST_S = 1e-7


@dataclass(frozen=True)
class KernelTime:
    """One kernel, all its `calls` in a run together.

    `seconds` is of one run, `share` of the time of all kernels. `gops` counts the operations of the
    op, `peak_share` those that are carried out (fewer with Winograd's method). Both are None for
    kernels that multiply nothing, and the latter where the instruction's peak was not measured.
    """

    name: str
    op: str
    precision: str
    isa: str
    instruction: str | None
    schedule: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    calls: int
    seconds: float
    share: float
    gops: float | None
    peak_share: float | None
    gbs: float
    memory_share: float

    @property
    def limit_share(self) -> float:
        """How near the kernel is to what bounds it: 0.5 is twice the least possible time."""
        return max(self.peak_share or 0.0, self.memory_share)

    @property
    def bound(self) -> str:
        """What bounds the kernel on this machine: `compute` or `memory`."""
        return "compute" if (self.peak_share or 0.0) >= self.memory_share else "memory"

    def to_json(self) -> dict[str, Any]:
        """An entry of `kernels` in a profile."""
        return {
            "name": self.name,
            "op": self.op,
            "precision": self.precision,
            "isa": self.isa,
            "instruction": self.instruction,
            "schedule": self.schedule,
            "input_shapes": [list(s) for s in self.input_shapes],
            "output_shape": list(self.output_shape),
            "calls": self.calls,
            "us": self.seconds * 1e6,
            "share": self.share,
            "gops": self.gops,
            "peak_share": self.peak_share,
            "gbs": self.gbs,
            "memory_share": self.memory_share,
            "bound": self.bound,
            "limit_share": self.limit_share,
        }


@dataclass(frozen=True)
class Profile:
    """The kernels of one artifact, the slowest first.

    `latency_s` is the median of whole runs without hooks; what `kernels_s` leaves of it is spent
    between kernels (allocation, calls), `overhead` as a share.
    """

    precision: str
    isa: str
    threads: int
    latency_s: float
    kernels: tuple[KernelTime, ...]

    @property
    def kernels_s(self) -> float:
        """Seconds of all kernels in one run."""
        return sum(k.seconds for k in self.kernels)

    @property
    def overhead(self) -> float:
        """Share of the latency outside kernels; the two are timed apart, so it may be below 0."""
        return 1 - self.kernels_s / self.latency_s

    def to_json(self) -> dict[str, Any]:
        """An entry of `profile` in `bench --json`."""
        return {
            "precision": self.precision,
            "isa": self.isa,
            "threads": self.threads,
            "latency_ms": self.latency_s * 1e3,
            "kernels_ms": self.kernels_s * 1e3,
            "overhead": self.overhead,
            "kernels": [k.to_json() for k in self.kernels],
        }


def make_profile(
    manifest: Mapping[str, Any],
    calls: Sequence[str],
    rounds: Sequence[Sequence[float]],
    latency_s: float,
    peaks: Peaks,
    threads: int,
) -> Profile:
    """The profile of an artifact from its manifest and the seconds of its `calls` in each round.

    Each call takes its median over the rounds, less what the shortest of all calls takes, which is
    the timing itself.
    """
    medians = np.median(np.asarray(rounds, np.float64), axis=0)
    medians = medians - medians.min()
    spent: dict[str, float] = {}
    for name, seconds in zip(calls, medians, strict=True):
        spent[name] = spent.get(name, 0.0) + float(seconds)
    kernels = [k for k in manifest["kernels"] if k["name"] in spent]
    total = sum(spent[k["name"]] for k in kernels)
    weights = sum(k["weight_bytes"] * k["calls"] for k in kernels)
    rows = [_row(k, spent[k["name"]], total, weights, peaks, threads) for k in kernels]
    return Profile(
        precision=str(manifest["precision"]),
        isa=str(manifest["isa"]),
        threads=threads,
        latency_s=latency_s,
        kernels=tuple(sorted(rows, key=lambda k: -k.seconds)),
    )


def _row(
    kernel: Mapping[str, Any],
    seconds: float,
    total: float,
    all_weights: int,
    peaks: Peaks,
    threads: int,
) -> KernelTime:
    calls, nbytes, weights = kernel["calls"], kernel["bytes"], kernel["weight_bytes"]
    once = max(seconds / calls, _SHORTEST_S)
    gops = 2 * kernel["macs"] / once / 1e9 if kernel["macs"] else None
    best = _peak(kernel, peaks, threads) if gops else None
    least = weights / peaks.gbs(all_weights, threads) + (nbytes - weights) / peaks.gbs(
        nbytes, threads
    )
    return KernelTime(
        name=kernel["name"],
        op=kernel["op"],
        precision=kernel["precision"],
        isa=kernel["isa"],
        instruction=kernel["instruction"],
        schedule=kernel["schedule"],
        input_shapes=tuple(tuple(s) for s in kernel["input_shapes"]),
        output_shape=tuple(kernel["output_shape"]),
        calls=calls,
        seconds=seconds,
        share=seconds / total if total else 0.0,
        gops=gops,
        peak_share=2 * kernel["multiplied"] / once / 1e9 / best if best else None,
        gbs=nbytes / once / 1e9,
        memory_share=least / once / 1e9,
    )


def _peak(kernel: Mapping[str, Any], peaks: Peaks, threads: int) -> float | None:
    """The peak of the kernel's instruction on its target's registers, in Gop/s.

    Where it names none, that of the best instruction for its precision on that target.
    """
    isa = ISAS[kernel["isa"]]
    if kernel["instruction"] is not None:
        tiles = kernel["instruction"].startswith("tdp")
        return peaks.gops(kernel["instruction"], 0 if tiles else 32 * isa.lanes, threads)
    rates = [
        p.gops[threads]
        for p in peaks.compute
        if p.precision == kernel["precision"] and _includes(isa, ISAS[p.isa])
    ]
    return max(rates, default=None)


def _includes(isa: Isa, other: Isa) -> bool:
    return set(isa.flags).issuperset(other.flags)
