"""The files of one session on a device, named by their sha256 and gone with the session."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from lepton_tvm.errors import DeviceError, InputError

__all__ = ["SessionFiles"]

_MOST_BYTES = 2 << 30


class SessionFiles:
    """A folder of files by content; the longest unused ones go where it would grow too large."""

    def __init__(self, folder: Path, most_bytes: int = _MOST_BYTES) -> None:
        self._folder = folder
        self._most = most_bytes
        self._sizes: dict[str, int] = {}  # the longest unused first
        self._wanted: set[str] = set()

    def missing(self, wanted: Iterable[str]) -> list[str]:
        """Those of `wanted` that must be brought; the others are kept until the next such call."""
        self._wanted = set(wanted)
        for sha256 in self._wanted & set(self._sizes):
            self._sizes[sha256] = self._sizes.pop(sha256)
        return sorted(self._wanted - set(self._sizes))

    def put(self, sha256: str, data: bytes) -> None:
        """Keep a file. Raises InputError where the content is not what its name says."""
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise InputError(f"a file arrived damaged: its sha256 is {found}, expected {sha256}")
        self._make_room(len(data))
        try:
            self._place(sha256).write_bytes(data)
        except OSError as e:
            raise DeviceError(
                f"cannot keep {len(data)} bytes in {self._folder}: {e.strerror}"
            ) from e
        self._sizes[sha256] = len(data)

    def path(self, sha256: str, *, check: bool = False) -> Path:
        """Where a file lies; `check`: read it again, for code to be loaded. Raises InputError."""
        if sha256 not in self._sizes:
            raise InputError(f"file {sha256[:12]} was not brought to the device")
        path = self._place(sha256)
        if check and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise InputError(f"file {sha256[:12]} has changed on the device: it is not loaded")
        return path

    def drop(self, sha256: str) -> None:
        """Remove a file that is not needed again."""
        if self._sizes.pop(sha256, None) is not None:
            self._place(sha256).unlink(missing_ok=True)

    def _place(self, sha256: str) -> Path:
        # TVM's loader takes a library for one by its ending.
        return self._folder / f"{sha256}.so"

    def _make_room(self, size: int) -> None:
        old = [s for s in self._sizes if s not in self._wanted]
        total = sum(self._sizes.values())
        for sha256 in old:
            if total + size <= self._most:
                return
            total -= self._sizes[sha256]
            self.drop(sha256)
