"""Running one built kernel beside its reference: their numbers, then their times in turns."""

from __future__ import annotations

import ctypes
import gc
import itertools
import math
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from lepton_tvm.errors import InputError
from lepton_tvm.measure.caches import cache_bytes
from lepton_tvm.measure.latency import Rounds, measure_interleaved
from lepton_tvm.runtime.library import cuda_runtime, ffi, global_function
from lepton_tvm.runtime.threads import run_with_threads
from lepton_tvm.workers.number_check import difference
from lepton_tvm.workers.trial_requests import Argument, RunRequest, RunResult

__all__ = ["request_bytes", "run_kernel"]

Array = npt.NDArray[Any]

# A candidate so much slower in its first samples is not measured to the end of its budget,
_SLOWER = 1.3
# and one that is so slow in a single run as to use up the budget needs no second sample.
_HOPELESS = 4.0
# Copies of constants take up to so many times the largest cache (more of them are as cold), and
# there are no more of them than this.
_COLD = 2
_MOST_COPIES = 256
# What outputs hold before the call; the two differ, so that a kernel that writes nothing is seen.
_CANDIDATE_FILL, _REFERENCE_FILL = 0xFF, 0x00


def run_kernel(request: RunRequest) -> RunResult:
    """Check and time one kernel in this process, which it may take down.

    Raises what loading or calling the libraries raises.
    """
    memory = _Memory(request.on_gpu)
    spread = 0 if request.on_gpu else min(request.model_constants, _COLD * cache_bytes()[3])
    candidate = _Kernel(request.path, request.arguments, memory, _CANDIDATE_FILL, spread)
    if request.reference is None:
        run_with_threads(request.threads, candidate.call)
        samples = run_with_threads(request.threads, lambda: _time(request, candidate, None))
        return RunResult(request.id, "ok", tuple(samples["candidate"]))
    reference = _Kernel(
        request.reference, request.reference_arguments, memory, _REFERENCE_FILL, spread
    )
    run_with_threads(request.threads, reference.call)
    want = reference.outputs()
    for times in ("first", "last"):
        run_with_threads(request.threads, candidate.call)
        wrong = _wrong(candidate.outputs(), want, request.tolerance)
        if wrong is not None:
            return RunResult(request.id, "wrong", error=f"{wrong} ({times} call)")
        if times == "first":
            samples = run_with_threads(
                request.threads, lambda: _time(request, candidate, reference)
            )
    return RunResult(request.id, "ok", tuple(samples["candidate"]), tuple(samples["reference"]))


def request_bytes(request: RunRequest) -> int:
    """The bytes of all arguments."""
    both = (*request.arguments, *request.reference_arguments)
    return sum(_size(a) for a in both)


class _Memory:
    """Where the arguments lie: this machine's memory or the first GPU's; files are read once."""

    def __init__(self, on_gpu: bool) -> None:
        if on_gpu:
            cuda_runtime()
        self.on_gpu = on_gpu
        self.device = ffi().device("cuda" if on_gpu else "cpu", 0)
        self._read: dict[Argument, Array] = {}
        self._inputs: dict[Argument, Any] = {}

    def tensor(self, argument: Argument) -> Any:
        """What a file holds: a new tensor of a constant, otherwise always the same."""
        if argument not in self._read:
            self._read[argument] = _read(argument)
        if argument.constant:
            return _tensor(argument, self._read[argument], self.device)
        if argument not in self._inputs:
            self._inputs[argument] = _tensor(argument, self._read[argument], self.device)
        return self._inputs[argument]

    def wait(self) -> None:
        """Until the kernels that were started are done; on a CPU they are when they return."""
        if self.on_gpu:
            global_function("runtime.Device_StreamSync")(self.device, 0)


class _Kernel:
    """A loaded library and its arguments."""

    def __init__(
        self, path: str, arguments: Sequence[Argument], memory: _Memory, fill: int, spread: int
    ) -> None:
        self._main = ffi().load_module(os.path.realpath(path))["main"]
        self._memory = memory
        self._outputs = [(a, _filled(a, fill, memory.device)) for a in arguments if a.path is None]
        own = sum(_size(a) for a in arguments if a.constant)
        copies = min(math.ceil(spread / own), _MOST_COPIES) if own else 1
        self._sets = itertools.cycle([self._set(arguments) for _ in range(max(1, copies))])

    def call(self) -> None:
        self._main(*next(self._sets))

    def timer(self, number: int) -> float:
        """Seconds of one call, the mean of `number`."""
        main, sets = self._main, self._sets
        start = time.perf_counter_ns()
        for _ in range(number):
            main(*next(sets))
        self._memory.wait()
        return (time.perf_counter_ns() - start) / number / 1e9

    def outputs(self) -> list[Array]:
        """Copies of the outputs."""
        return [_bytes_of(a, tensor) for a, tensor in self._outputs]

    def _set(self, arguments: Sequence[Argument]) -> tuple[Any, ...]:
        """Arguments for a call: constants of its own, the others are the same in all sets."""
        outputs = iter(self._outputs)
        return tuple(
            next(outputs)[1] if a.path is None else self._memory.tensor(a) for a in arguments
        )


def _time(
    request: RunRequest, candidate: _Kernel, reference: _Kernel | None
) -> dict[str, list[float]]:
    """Samples of both, taken in turns; fewer of a candidate that is plainly slower."""
    _pin(request.threads)
    gc.disable()
    budget = request.budget_s
    kernels = {"candidate": candidate.timer}
    if reference is None:
        return measure_interleaved(kernels, Rounds(3, budget_s=budget, warmup_s=budget / 10))
    kernels["reference"] = reference.timer
    first = candidate.timer(1)
    hopeless = first > budget and first > _HOPELESS * reference.timer(1)
    samples = measure_interleaved(
        kernels, Rounds(1 if hopeless else 3, budget_s=budget / 5, warmup_s=budget / 20)
    )
    medians = {name: statistics.median(taken) for name, taken in samples.items()}
    if hopeless or medians["candidate"] > _SLOWER * medians["reference"]:
        return samples
    more = measure_interleaved(kernels, Rounds(1, budget_s=budget * 0.7, warmup_s=0.0))
    return {name: samples[name] + more[name] for name in samples}


def _pin(threads: int) -> None:
    """Keep each thread of this process, TVM's pool among them, on a CPU of its own."""
    # From the last CPU down, since the first one serves most interrupts.
    cpus = sorted(os.sched_getaffinity(0), reverse=True)
    tasks = sorted(int(entry.name) for entry in Path("/proc/self/task").iterdir())
    for index, task in enumerate(tasks[: max(threads, 1)]):
        os.sched_setaffinity(task, {cpus[index % len(cpus)]})


def _wrong(got: Sequence[Array], want: Sequence[Array], tolerance: float) -> str | None:
    if len(got) != len(want):
        return f"{len(got)} outputs where {len(want)} are due"
    for index, (found, due) in enumerate(zip(got, want, strict=True)):
        told = difference(found, due, tolerance)
        if told is not None:
            return told if len(want) == 1 else f"output {index}: {told}"
    return None


def _read(argument: Argument) -> Array:
    assert argument.path is not None
    data = np.fromfile(argument.path, np.uint8)
    due = _size(argument)
    if data.size != due:
        raise InputError(f"argument file {argument.path} holds {data.size} bytes, not {due}")
    return data


def _filled(argument: Argument, fill: int, device: Any) -> Any:
    return _tensor(argument, np.full(_size(argument), fill, np.uint8), device)


def _size(argument: Argument) -> int:
    return _dtype(argument.dtype).itemsize * int(np.prod(argument.shape, dtype=np.int64))


def _tensor(argument: Argument, data: Array, device: Any) -> Any:
    """A tensor of TVM's own allocation, aligned as kernels expect."""
    core = ffi()
    shape, dtype = core.Shape(list(argument.shape)), core.dtype(argument.dtype)
    allocate = global_function("runtime.TVMTensorAllocWithScope")
    tensor = allocate(shape, dtype, device, None)
    source = data.ctypes.data_as(ctypes.c_void_p)
    global_function("runtime.TVMTensorCopyFromBytes")(tensor, source, data.size)
    return tensor


def _bytes_of(argument: Argument, tensor: Any) -> Array:
    data = np.empty(_size(argument), np.uint8)
    target = data.ctypes.data_as(ctypes.c_void_p)
    global_function("runtime.TVMTensorCopyToBytes")(tensor, target, data.size)
    return data.view(_dtype(argument.dtype)).reshape(argument.shape)


def _dtype(name: str) -> np.dtype[Any]:
    """NumPy's type of that name, or that of ml_dtypes (bfloat16)."""
    return np.dtype(getattr(ml_dtypes, name, name))
