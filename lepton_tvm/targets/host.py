"""The machine at hand: its architecture and the features of its processor."""

from __future__ import annotations

import ctypes
import functools
import platform
from pathlib import Path

__all__ = ["cpu_flags", "host_arch"]


# Names of the bits of the auxiliary vector (arch/arm64/include/uapi/asm/hwcap.h).
_AT_HWCAP, _AT_HWCAP2 = 16, 26
_HWCAP = {0: "fp", 1: "asimd", 8: "atomics", 9: "fphp", 10: "asimdhp", 12: "asimdrdm",
          20: "asimddp", 22: "sve"}  # fmt: skip
_HWCAP2 = {1: "sve2", 9: "svei8mm", 13: "i8mm", 14: "bf16"}


@functools.lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """The feature flags of this machine's CPU as Linux names them; empty where they are unknown.

    On ARM they are asked of the kernel: an emulator of a process answers for its processor there,
    and shows the real machine's /proc/cpuinfo.
    """
    if host_arch() == "aarch64":
        return _hwcaps()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _hwcaps() -> frozenset[str]:
    try:
        ask = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return frozenset()
    ask.argtypes, ask.restype = [ctypes.c_ulong], ctypes.c_ulong
    sets = ((ask(_AT_HWCAP), _HWCAP), (ask(_AT_HWCAP2), _HWCAP2))
    return frozenset(name for bits, names in sets for bit, name in names.items() if bits >> bit & 1)


def host_arch() -> str:
    """This machine's architecture as `uname -m` has it: `x86_64`, `aarch64`, ..."""
    return platform.machine()
