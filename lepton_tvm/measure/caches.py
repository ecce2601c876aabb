"""Sizes of this machine's data caches, read from Linux."""

from __future__ import annotations

import functools
from pathlib import Path

__all__ = ["cache_bytes"]

_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
#: Taken for a level of which Linux tells nothing, as in some containers.
_USUAL = {1: 32 << 10, 2: 1 << 20, 3: 32 << 20}


@functools.lru_cache(maxsize=1)
def cache_bytes(folder: Path = _FOLDER) -> dict[int, int]:
    """Level (1, 2, 3) -> bytes of one data or unified cache of the first CPU."""
    found = dict(_USUAL)
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text(encoding="ascii").strip()
                for name in ("level", "type", "size")
            )
            if kind != "Instruction" and int(level) in found:
                found[int(level)] = _bytes(size)
        except (OSError, ValueError):
            continue
    return found


def _bytes(text: str) -> int:
    unit = _UNITS.get(text[-1:].upper(), 1)
    return int(text.rstrip("KMGkmg")) * unit
