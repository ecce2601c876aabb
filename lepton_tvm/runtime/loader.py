"""From a file to a `Net`: every check that can be made before code is loaded is made first."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lepton_tvm.artifact.container import verify
from lepton_tvm.errors import ArtifactError, InputError, TargetError
from lepton_tvm.runtime.library import cuda_runtime, ffi, tvm_version
from lepton_tvm.runtime.net import Net
from lepton_tvm.runtime.tensor_memory import GpuMemory, initialize
from lepton_tvm.targets import cpu_flags
from lepton_tvm.targets.driver import Devices, gpus

__all__ = ["check_machine", "load"]

_MAX_THREADS = 1024
_loaded: dict[str, str] = {}  # path -> sha256 of what was first loaded from there
_loaded_lock = threading.Lock()


def load(path: str | Path, threads: int = 1) -> Net:
    """Load an artifact for running with `threads` threads (the caller's thread counts as one).

    Before any code is loaded, all bytes are checked against the hash inside, and the manifest
    against this machine. Raises ArtifactError for a missing, damaged or foreign file, TargetError
    when this CPU lacks features that the code uses (named in the message) or there is no GPU for
    it, InputError for a bad `threads`. An artifact for GPUs runs on the first one; arrays are
    copied there and back.
    """
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise InputError(f"threads must be a whole number, found {threads!r}")
    if not 1 <= threads <= _MAX_THREADS:
        raise InputError(f"threads must be between 1 and {_MAX_THREADS}, found {threads}")
    manifest, sha256 = verify(path)
    check_machine(manifest, str(path))
    _check_version(manifest, str(path))
    on_gpu = manifest.get("gpu") is not None
    machine = _machine(Path(path), sha256, on_gpu)
    gpu = GpuMemory() if on_gpu else None
    return Net(machine, manifest, sha256=sha256, path=Path(path), threads=threads, gpu=gpu)


def check_machine(
    manifest: Mapping[str, Any],
    path: str,
    *,
    flags: frozenset[str] | None = None,
    arch: str | None = None,
    devices: Devices | None = None,
) -> None:
    """Raise TargetError unless this machine can run the artifact.

    Or another one: with CPU `flags` (as its /proc/cpuinfo writes them), of `arch` and with the GPUs
    `devices`.
    """
    here, what = arch or platform.machine(), "this machine" if arch is None else "the device"
    if manifest["arch"] != here:
        raise TargetError(
            f"artifact {path} was built for {manifest['arch']}, {what} is {here}; "
            f"compile it for {what}"
        )
    have = cpu_flags() if flags is None else flags
    missing = [f for f in manifest["cpu_features"] if f not in have]
    if not missing:
        _check_gpu(manifest, path, devices)
        return
    raise TargetError(
        f"artifact {path} was built for {manifest['target']} ({manifest['isa']}) and this CPU "
        f"lacks {', '.join(missing)}; compile it for this machine (--target native)"
    )


def _check_gpu(manifest: Mapping[str, Any], path: str, devices: Devices | None) -> None:
    """The first GPU must be as new as the oldest architecture that kernels were compiled for."""
    wanted = manifest.get("gpu")
    if wanted is None:
        return
    found = gpus() if devices is None else devices
    names, capability = ", ".join(wanted["archs"]), int(wanted["capability"])
    told = (
        f"artifact {path} is for NVIDIA GPUs of compute capability {_dotted(capability)} or newer"
    )
    if not found.devices:
        raise TargetError(
            f"{told} (CUDA {names}): {found.reason}; run it where there is one, or compile it for "
            "this machine (--target native)"
        )
    first = found.devices[0]
    if first.capability < capability:
        raise TargetError(
            f"{told} (CUDA {names}), the GPU of this machine, {first.name}, has "
            f"{_dotted(first.capability)}; compile it with --target cuda:{first.arch}"
        )


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


def _check_version(manifest: Mapping[str, Any], path: str) -> None:
    """The VM's bytecode has no promise across TVM versions: refuse instead of guessing."""
    built, here = manifest["versions"].get("tvm"), tvm_version()
    if not built or not here or _release(built) == _release(here):
        return
    raise ArtifactError(
        f"artifact {path} was built with apache-tvm {built}, installed is {here}; "
        "compile it again or install the version it was built with"
    )


def _release(version: str) -> list[str]:
    return version.split(".")[:2]


def _machine(path: Path, sha256: str, on_gpu: bool) -> Any:
    if on_gpu:
        cuda_runtime()
    try:
        with _library_file(path, sha256) as library:
            # Let go with the last reference: code and constants would stay for good otherwise.
            module = ffi().load_module(library, keep_module_alive=False)
            machine = module["vm_load_executable"]()
        initialize(machine, on_gpu)
    except (RuntimeError, AttributeError, ValueError) as e:
        raise ArtifactError(f"artifact {path} cannot be loaded: {_last_line(e)}") from e
    return machine


@contextmanager
def _library_file(path: Path, sha256: str) -> Iterator[str]:
    """A path under which the system's loader finds just these bytes.

    It knows libraries by their path and would answer with the old code where a file that this
    process has loaded was compiled anew: then the new bytes are loaded from a copy.
    """
    # The loader of the system looks a bare name up in its own search path.
    library = os.path.realpath(path)
    with _loaded_lock:
        known = _loaded.setdefault(library, sha256)
    if known == sha256:
        yield library
        return
    with tempfile.TemporaryDirectory(prefix="lepton-") as scratch:
        yield shutil.copyfile(library, os.path.join(scratch, path.name))


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
