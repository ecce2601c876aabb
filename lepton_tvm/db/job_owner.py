"""Telling whether the process that began a job still lives."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["host_id", "is_gone"]


def host_id(pid: int | None = None) -> str:
    """This host, its boot, and when the process began, so that a reused pid is not mistaken."""
    return f"{_boot()}/{_start(os.getpid() if pid is None else pid) or 'unknown'}"


def is_gone(host: str, pid: int, *, since_boot: bool = False) -> bool:
    """Whether a process of this host has ended; False for one that cannot be seen from here.

    Out of sight are other hosts and other process namespaces (containers). With `since_boot` a
    host of this name that booted at another time counts as another host of the same name.
    """
    place, _, start = host.rpartition("/")
    name, _, boot = place.partition("/")
    here, _, own_boot = _boot().partition("/")
    if name != here:
        return False
    if boot.partition(".")[0] != own_boot.partition(".")[0]:
        return not since_boot
    # before schema 0003 no namespace was noted
    is_visible = boot == own_boot or "." not in boot
    return is_visible and _start(pid) != start


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = "unknown"
    return f"{platform.node()}/{boot}.{_namespace()}"


def _namespace() -> str:
    """The process namespace: a pid means something only inside it."""
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "unknown"


def _start(pid: int) -> str | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    # A zombie has ended although it still has an entry.
    return None if fields[0] in ("Z", "X") else fields[19]
