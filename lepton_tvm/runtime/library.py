"""Finding and loading TVM's runtime library without importing `tvm`, which loads the compiler."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lepton_tvm.errors import LeptonError

__all__ = [
    "cuda_runtime",
    "ffi",
    "global_function",
    "remote_calls",
    "runtime_library",
    "tvm_version",
]

_NAME = "libtvm_runtime.so"
_EXTRA = "libtvm_runtime_extra.so"  # holds RPC
_CUDART = "libcudart.so.13"  # what TVM's wheel is linked to
_CUDA_LOADER = "ffi.Module.load_from_bytes.cuda"


@functools.lru_cache(maxsize=1)
def ffi() -> Any:
    """The `tvm_ffi` package, with TVM's runtime library loaded behind it.

    Works in either order with `import tvm` in the same process: both then share one copy of the
    library. Raises LeptonError when apache-tvm is not installed.
    """
    # TVM pins the calling thread to one core on first use unless told not to; a library must not
    # change the affinity of its host program.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    with _without_torch():
        import tvm_ffi
    runtime_library()
    return tvm_ffi


@functools.lru_cache(maxsize=1)
def runtime_library() -> ctypes.CDLL:
    """The handle of libtvm_runtime.so, loaded where it was not. Needs `tvm_ffi` loaded before."""
    path = _find()
    try:
        return ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as e:
        raise LeptonError(f"cannot load TVM's runtime library {path}: {e}") from e


@functools.lru_cache(maxsize=1)
def cuda_runtime() -> None:
    """Load what launches kernels on NVIDIA GPUs, where it is not loaded yet.

    Raises LeptonError where CUDA's runtime library, which it needs, is not installed.
    """
    if ffi().get_global_func(_CUDA_LOADER, allow_missing=True) is not None:
        return
    for cudart in _cudart():
        with contextlib.suppress(OSError):
            ctypes.CDLL(cudart, ctypes.RTLD_GLOBAL)
            break
    path = _find().with_name("libtvm_runtime_cuda.so")
    try:
        ctypes.CDLL(str(path))
    except OSError as e:
        raise LeptonError(
            f"cannot load TVM's CUDA runtime {path}: {e}; it needs the NVIDIA driver and CUDA's "
            'runtime library (pip install "lepton-tvm[cuda]")'
        ) from e


def _cudart() -> list[str]:
    """Where CUDA's runtime library may be: in the system's search path, else from PyPI."""
    spec = importlib.util.find_spec("nvidia")
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = [p for place in places for p in sorted(Path(place).glob(f"cu*/lib/{_CUDART}"))]
    return [_CUDART, *map(str, found)]


@functools.lru_cache(maxsize=16)
def global_function(name: str) -> Callable[..., Any]:
    """A function that TVM's runtime registers under `name`."""
    function: Callable[..., Any] = ffi().get_global_func(name)
    return function


@functools.lru_cache(maxsize=4)
def remote_calls(name: str) -> Callable[..., Any]:
    """A function of TVM's RPC (`rpc.Connect`, `rpc.ServerLoop`), whose library is loaded if needed.

    Raises LeptonError where this TVM was built without RPC.
    """
    ffi()
    path = _find().with_name(_EXTRA)
    try:
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        return global_function(name)
    except (OSError, ValueError) as e:
        raise LeptonError(
            f"this TVM cannot do remote calls ({path}: {e}); install apache-tvm from PyPI"
        ) from e


@functools.lru_cache(maxsize=1)
def tvm_version() -> str | None:
    """The version of the installed apache-tvm, read without importing it; None if not known."""
    # importlib.metadata costs 15 ms; the package states its version in a file of its own.
    for folder in _packages():
        try:
            text = (folder / "_version.py").read_text(encoding="utf-8")
        except OSError:
            continue
        for line in text.splitlines():
            name, equals, value = line.partition("=")
            value = value.rpartition("=")[2].strip()
            if equals and name.strip() in ("version", "__version__") and value[:1] in ("'", '"'):
                return value.strip("'\"")
    return None


def _find() -> Path:
    folders = [Path(p) for p in [os.environ.get("TVM_LIBRARY_PATH")] if p]
    for package in _packages():
        folders += [package / "lib", package.parent.parent / "build" / "lib"]
    for folder in folders:
        if (folder / _NAME).is_file():
            return folder / _NAME
    looked = ", ".join(map(str, folders)) or "no package 'tvm' in this Python"
    raise LeptonError(f"{_NAME} was not found (looked in {looked}); pip install apache-tvm")


def _packages() -> list[Path]:
    spec = importlib.util.find_spec("tvm")
    if spec is None or not spec.submodule_search_locations:
        return []
    return [Path(p) for p in spec.submodule_search_locations]


@contextmanager
def _without_torch() -> Iterator[None]:
    """Keep `import tvm_ffi` from importing torch (2 s) where the program has not done so."""
    if "torch" in sys.modules or "tvm_ffi" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
