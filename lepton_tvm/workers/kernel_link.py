"""Linking one kernel quickly: a trial's library may be large, but must be ready soon."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

from lepton_tvm.artifact.writer import export_library
from lepton_tvm.targets import Target

__all__ = ["link_kernel"]

_FLAGS = ("-shared", "-s", "-z", "noseparate-code", "--hash-style=gnu", "--no-undefined")
# Most kernels call nothing. Reading the symbols of these takes six times as long as all the rest.
_LIBRARIES = ((), ("-lm", "-lc"))


def link_kernel(
    executable: Any, path: Path, target: Target, compiler: str, device_code: bytes | None = None
) -> None:
    """Write what `tvm.compile` returned as a shared library, with `device_code` for a GPU.

    Kernels for this machine go through the linker alone (3 ms; by way of the C compiler and
    objcopy, as artifacts are linked, it was 15 of the 85 ms that a build took). All others, and
    what the linker does not manage, are linked as artifacts are. Raises ArtifactError.
    """
    linker = _linker() if target.cross_compiler is None and not target.on_gpu else None
    if linker is not None and _link_directly(linker, executable.mod, path):
        return
    export_library(executable, path, compiler, device_code)


def _link_directly(linker: str, module: Any, path: Path) -> bool:
    if module.imports or module.kind != "llvm":
        return False
    code = path.with_suffix(".o")
    try:
        module.write_to_file(str(code), "o")
        command = [linker, *_FLAGS, "-o", str(path), str(code)]
        return any(_succeeds([*command, *libraries]) for libraries in _LIBRARIES)
    except OSError:
        return False
    finally:
        code.unlink(missing_ok=True)


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@functools.lru_cache(maxsize=1)
def _linker() -> str | None:
    return shutil.which("ld")
