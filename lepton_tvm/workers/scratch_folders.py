"""Folders for what trials leave behind, which go with the process that made them.

A folder holds a file that its process keeps locked. A process killed in the middle loses its locks,
so whoever makes the next folder can tell which ones are left over, and removes them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from lepton_tvm.errors import TrialError

__all__ = ["Scratch", "is_full", "told_reason"]

_PREFIX = "lepton-trials-"
_LOCK = "owner.lock"
_UNOWNED_S = 3600.0
_LEAST_FREE = 1 << 20


_TOLD = {
    "no-compiler": "no C compiler to link with; install gcc or set LEPTON_TVM_CC",
    "disk-full": "the disk of {folder} is full; free some space or set TMPDIR",
    "scratch-gone": "the folder {folder} was removed while candidates were built into it",
}


def told_reason(reason: str, folder: Path) -> str:
    """A `reason` for which nothing can be built, for people."""
    return _TOLD[reason].format(folder=folder)


def is_full(folder: Path) -> bool:
    """Whether the disk of `folder` has no room for another kernel."""
    try:
        about = os.statvfs(folder)
    except OSError:
        return False
    return about.f_bavail * about.f_frsize < _LEAST_FREE


class Scratch:
    """A folder of this process below `parent` (default: the system's folder for such).

    Making one removes those of processes that have ended. Raises TrialError where no folder can be
    made.
    """

    def __init__(self, parent: str | Path | None = None) -> None:
        root = Path(parent) if parent is not None else Path(tempfile.gettempdir())
        _remove_left_over(root)
        try:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
            self._lock = _locked(self.path)
        except OSError as e:
            raise TrialError(
                f"cannot make a folder for candidate kernels in {root}: {e.strerror or e}; "
                "free some space or set TMPDIR to a folder that can be written"
            ) from e

    def ensure(self) -> None:
        """Make the folder anew where somebody, such as a cleaner of temporary files, removed it.

        Raises TrialError where that cannot be done.
        """
        if self.path.is_dir():
            return
        try:
            self.path.mkdir(mode=0o700)
            os.close(self._lock)
            self._lock = _locked(self.path)
        except OSError as e:
            raise TrialError(
                f"the folder of candidate kernels {self.path} was removed and cannot be made "
                f"again: {e.strerror or e}"
            ) from e

    def close(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _locked(folder: Path) -> int:
    """The descriptor of the lock file, which gets its name when it is locked and not before."""
    hidden = folder / f".{_LOCK}"
    descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    hidden.rename(folder / _LOCK)
    return descriptor


def _remove_left_over(root: Path) -> None:
    with suppress(OSError):
        for folder in root.glob(f"{_PREFIX}*"):
            if _is_left_over(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_left_over(folder: Path) -> bool:
    try:
        about = folder.lstat()
    except OSError:
        return False
    try:
        if about.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
            return False
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        # It is being made just now, or its process ended while it did so.
        return time.time() - about.st_mtime > _UNOWNED_S
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
