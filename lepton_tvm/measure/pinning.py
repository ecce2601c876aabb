"""Keeping the threads that do the work on CPUs of their own while something is timed.

Two threads on one CPU while another one idles make a time of two threads worthless, and systems
differ in how soon they part them: some virtual machines pack threads onto few CPUs on purpose. So
the threads that a run uses are found by the CPU time they take, whoever made them, and each is
given a CPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["pinned", "waited"]

_TASKS = Path("/proc/self/task")
# Some systems count CPU time by ticks of 4 to 10 ms.
_FINDING_S = 0.1


@contextmanager
def pinned(run: Callable[[], object], threads: int, cpus: Sequence[int]) -> Iterator[list[int]]:
    """Call `run` for a while; keep this process's `threads` busiest threads on one CPU each.

    Where there are more threads than CPUs they share. Gives the threads' ids, the busiest first;
    none where the system does not tell the CPU times of threads. They are let go at the end.
    """
    before, end = _cpu_times(), time.perf_counter() + _FINDING_S
    run()
    while time.perf_counter() < end:
        run()
    spent = {tid: taken - before.get(tid, 0) for tid, taken in _cpu_times().items()}
    busiest = sorted((t for t in spent if spent[t] > 0), key=lambda t: -spent[t])[:threads]
    were: dict[int, set[int]] = {}
    for index, tid in enumerate(busiest):
        with suppress(OSError):  # the thread ended, or the system forbids it
            allowed = os.sched_getaffinity(tid)
            os.sched_setaffinity(tid, {cpus[index % len(cpus)]})
            were[tid] = allowed
    try:
        yield list(were)
    finally:
        for tid, allowed in were.items():
            with suppress(OSError):
                os.sched_setaffinity(tid, allowed)


def waited() -> float:
    """Seconds that threads of this process could have run so far and had no CPU; 0 if unknown.

    Grows where other work shares the CPUs, or threads of this process share one.
    """
    return sum(_schedule_times(1).values()) / 1e9


def _cpu_times() -> dict[int, int]:
    """Thread id -> nanoseconds on a CPU so far, for all threads of this process."""
    return _schedule_times(0)


def _schedule_times(field: int) -> dict[int, int]:
    times = {}
    for task in _TASKS.glob("*"):
        try:
            times[int(task.name)] = int((task / "schedstat").read_text().split()[field])
        except (OSError, ValueError, IndexError):
            continue
    return times
