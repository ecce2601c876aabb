"""Runs code for AMX and AVX-VNNI on machines without them: see isa_emulator.c."""

from __future__ import annotations

import ctypes
import functools
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lepton_tvm.targets import ISAS, cpu_flags

__all__ = ["KINDS", "configured", "count", "emulated", "library", "prepare"]

_SOURCE = Path(__file__).with_name("isa_emulator.c")
#: What the emulator counts, in its own order.
KINDS = (
    "ldtilecfg", "sttilecfg", "tilerelease", "tilezero", "tileload", "tilestore",
    "dot", "dot_bf16", "vector_dot",
)  # fmt: skip
_EMULATED_FLAGS = frozenset({"amx_tile", "amx_int8", "amx_bf16", "avx_vnni"})


def emulated(isa: str) -> bool:
    """Whether this machine lacks flags of `isa`, and the emulator knows all that it lacks."""
    missing = set(ISAS[isa].flags) - cpu_flags()
    return bool(missing) and missing <= _EMULATED_FLAGS


def prepare(isa: str) -> str | None:
    """Make this process able to run code for `isa`, by emulation where needed; else the reason."""
    missing = sorted(set(ISAS[isa].flags) - cpu_flags())
    if not missing:
        return None
    lacks = f"this CPU has no {', '.join(missing)}"
    if not emulated(isa):
        return lacks
    reason = _start()
    return f"{lacks}, and they are not emulated here: {reason}" if reason else None


def count(kind: str) -> int:
    """How many instructions of `kind` were emulated in this process so far."""
    made: int = library().emulator_count(KINDS.index(kind))
    return made


def configured() -> bool:
    """Whether the calling thread holds a tile configuration in the emulator."""
    return bool(library().emulator_is_configured())


@functools.cache
def library() -> ctypes.CDLL:
    """The emulator, compiled by the system's C compiler; nothing is installed by loading it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "emulator.so"
        command = [_compiler() or "cc", "-O3", "-fPIC", "-shared", "-o", str(path), str(_SOURCE)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        made = ctypes.CDLL(str(path))
    made.emulator_count.restype = ctypes.c_long
    return made


@functools.cache
def _start() -> str | None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "emulation needs Linux on x86-64"
    if _compiler() is None:
        return "there is no C compiler"
    if error := library().emulator_answer_permission(0):
        return f"the kernel's answer about tiles cannot be replaced (errno {error})"
    if error := library().emulator_install():
        return f"no handler of SIGILL can be installed (errno {error})"
    return None


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
