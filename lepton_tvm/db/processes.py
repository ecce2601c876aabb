"""Telling whether the process that began a job still lives."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["host_id", "is_gone"]


def host_id(pid: int | None = None) -> str:
    """This host, its boot, and when the process began, so that a reused pid is not mistaken."""
    return f"{_boot()}/{_start(os.getpid() if pid is None else pid) or 'unknown'}"


def is_gone(host: str, pid: int) -> bool:
    """Whether a process of this host has ended; False for another host's, which cannot be seen."""
    place, _, start = host.rpartition("/")
    name = place.partition("/")[0]
    if name != platform.node():
        return False
    if place != _boot():
        return True
    return _start(pid) != start


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = "unknown"
    return f"{platform.node()}/{boot}"


def _start(pid: int) -> str | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    # A zombie has ended although it still has an entry.
    return None if fields[0] in ("Z", "X") else fields[19]
