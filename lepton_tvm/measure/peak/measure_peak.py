"""Measuring the machine's peaks with loops that this compiler's code generator builds."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.errors import InputError, TargetError
from lepton_tvm.measure.latency import Rounds, Runner, measure_interleaved
from lepton_tvm.measure.machine import this_machine
from lepton_tvm.measure.peak.peak_result import Bandwidth, ComputePeak, Peaks
from lepton_tvm.measure.pinning import pinned
from lepton_tvm.runtime.library import ffi
from lepton_tvm.runtime.net import aligned_copy
from lepton_tvm.runtime.threads import run_with_threads
from lepton_tvm.targets import Target, best_isa, cpu_flags, host_arch, native_family, parse_target

__all__ = ["compiled", "measure_peaks"]

Array = npt.NDArray[Any]
#: Short samples, and the best of them: what disturbs a peak only ever makes it smaller.
ROUNDS = Rounds(least=50, most=50, budget_s=5.0, warmup_s=0.01)
_SAMPLE_S = 5e-4
_FIRST_STEPS = 1000


def measure_peaks(
    threads: Sequence[int] = (),
    *,
    rounds: Rounds = ROUNDS,
    progress: Callable[[str], None] | None = None,
) -> Peaks:
    """Peaks of this machine with one thread, with each of `threads`, and with all its CPUs.

    Every instruction-set level that the CPU has is measured, not only the best one. Rates are the
    best of the rounds. Raises TargetError on a machine that has none of the levels.
    """
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in threads):
        raise InputError(f"threads must be whole numbers of at least 1, found {list(threads)}")
    if native_family().name != "x86":
        raise TargetError(
            "peaks are measured with x86 instructions only so far, this machine is "
            f"{host_arch()}; leave --peak and --profile out"
        )
    say = progress or (lambda _text: None)
    cpus = os.sched_getaffinity(0)
    counts = tuple(sorted({1, *threads, len(cpus)}))
    ffi()  # before the compiler: TVM must not bind this process to one CPU
    from lepton_tvm.measure.peak.amx_chains import TILE_CHAINS
    from lepton_tvm.measure.peak.chains import chains_of
    from lepton_tvm.measure.peak.reads import levels

    chains = [*chains_of(cpu_flags()), *(c for c in TILE_CHAINS if best_isa().amx)]
    gops: dict[tuple[str, str], dict[int, float]] = {}
    gbs: dict[str, dict[int, float]] = {}
    sizes: dict[str, dict[int, int]] = {}
    for count in counts:
        say(f"measuring peaks with {count} thread(s)")
        work: dict[str, float] = {}
        runners: dict[str, Runner] = {}
        for chain in chains:
            key = f"{chain.isa} {chain.instruction}"
            steps, runners[key] = _chain_runner(chain, count)
            work[key] = steps * chain.ops_per_step * count
        for level, nbytes in levels(count).items():
            read, runners[level] = _read_runner(nbytes, count)
            work[level] = read
            sizes.setdefault(level, {})[count] = nbytes
        first = next(iter(runners.values()))
        with pinned(partial(first, 1), count, sorted(cpus, reverse=True)):
            seconds = measure_interleaved(runners, rounds)
        rates = {key: work[key] / min(seconds[key]) / 1e9 for key in runners}
        for chain in chains:
            rate = rates[f"{chain.isa} {chain.instruction}"]
            gops.setdefault((chain.isa, chain.instruction), {})[count] = rate
        for level in levels(count):
            gbs.setdefault(level, {})[count] = rates[level]
    return Peaks(
        machine=this_machine(),
        threads=counts,
        compute=tuple(
            ComputePeak(
                c.isa,
                c.precision,
                c.instruction,
                0 if c.tiles else 32 * c.lanes,
                gops[c.isa, c.instruction],
            )
            for c in chains
        ),
        memory=tuple(Bandwidth(level, sizes[level], gbs[level]) for level in gbs),
    )


def compiled(func: Any, target: Target) -> Callable[..., None]:
    """`func` built for `target`, callable with arrays (changed in place) and integers."""
    import tvm

    module = tvm.IRModule({"run": func})
    with target.tvm, tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        built = tvm.compile(module, target.tvm, tir_pipeline="s_tir").jit()["run"]

    def run(*args: Array | int) -> None:
        built(*(ffi().from_dlpack(a) if isinstance(a, np.ndarray) else a for a in args))

    return run


def _chain_runner(chain: Any, threads: int) -> tuple[int, Runner]:
    """Steps of one call, and the function that times calls."""
    from lepton_tvm.measure.peak.amx_chains import TILE_WORDS, tile_func
    from lepton_tvm.measure.peak.chains import chain_func

    func = (tile_func if chain.tiles else chain_func)(chain, threads)
    run = compiled(func, parse_target(f"x86:{chain.isa}"))
    # Small numbers: float sums stay finite, c * a + b settles at 2.
    half = np.full(TILE_WORDS, 0.5, np.float32).view(np.int32)
    one = np.full(max(TILE_WORDS, chain.words), 1.0, np.float32).view(np.int32)
    a, b = (half, one) if chain.tiles else (half[: chain.lanes], one[: chain.words])
    b = b[:TILE_WORDS] if chain.tiles else b
    args = [aligned_copy(x) for x in (a, b, np.zeros((threads, chain.words), np.int32))]
    return _sized(lambda steps: run(*args, steps), threads)


def _read_runner(nbytes: int, threads: int) -> tuple[int, Runner]:
    """Bytes of one call, and the function that times calls."""
    from lepton_tvm.measure.peak.reads import SUMS, read_func

    lanes = best_isa().lanes
    words = nbytes // 4 // (SUMS * lanes) * (SUMS * lanes)
    run = compiled(read_func(lanes, words, threads), parse_target("native"))
    data = aligned_copy(np.ones((threads, words), np.int32))
    sums = aligned_copy(np.zeros((threads, SUMS * lanes), np.int32))
    times, timed = _sized(lambda n: run(data, sums, n), threads, first_steps=1)
    return times * data.nbytes, timed


def _sized(
    call: Callable[[int], None], threads: int, first_steps: int = _FIRST_STEPS
) -> tuple[int, Runner]:
    """How many steps make a sample of a good length, and a runner of calls with so many."""
    import time

    def loop(steps: int, number: int) -> float:
        start = time.perf_counter_ns()
        for _ in range(number):
            call(steps)
        return (time.perf_counter_ns() - start) / number / 1e9

    run_with_threads(threads, partial(loop, first_steps, 1))
    taken = run_with_threads(threads, partial(loop, first_steps, 1))
    steps = max(1, round(first_steps * _SAMPLE_S / max(taken, 1e-7)))
    return steps, lambda number: run_with_threads(threads, partial(loop, steps, number))
