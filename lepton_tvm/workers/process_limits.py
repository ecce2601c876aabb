"""Limits that Linux holds for this process, so that a candidate without end costs one trial."""

from __future__ import annotations

import contextlib
import math
import resource
from pathlib import Path

__all__ = ["limit_cpu_time", "limit_memory"]


def limit_cpu_time(seconds: float) -> None:
    """End this process (SIGXCPU) when it has computed for so many more seconds.

    A backstop behind the parent's time-out, for a parent that is not looking.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = used.ru_utime + used.ru_stime
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = math.ceil(spent + seconds) + 1
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def limit_memory(more: int) -> None:
    """Let this process map at most `more` bytes beyond what it has mapped now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    wanted = pages * resource.getpagesize() + more
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
