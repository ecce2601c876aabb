"""NVIDIA's compiler as a library (NVRTC, nvFatbin): CUDA C++ to machine code, no GPU needed.

Both come from PyPI (extra `cuda`) or from an installed CUDA toolkit.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from lepton_tvm.errors import CompileError, LeptonError, TargetError

__all__ = ["compile_binary", "compiler_version"]

# No fast-math: divisions, roots and subnormal numbers as IEEE has them. Products and sums are
# rounded separately, as on CPUs, but where the kernel itself asks for a fused one.
_OPTIONS = ("-default-device", "--device-int128", "--fmad=false", "-w")
# What a host compiler's headers would bring.
_PREAMBLE = """#ifndef INFINITY
#define INFINITY (__int_as_float(0x7f800000))
#endif
"""
_INSTALL = 'pip install "lepton-tvm[cuda]"'


def compile_binary(source: str, archs: Sequence[str]) -> bytes:
    """A fat binary of `source`: machine code for each of `archs` (`sm_80`), PTX of the first.

    The driver translates the PTX on newer GPUs that no machine code is for. Raises CompileError
    with the compiler's own message, and when there is no compiler; TargetError for an architecture
    that this one does not know.
    """
    pieces = [(arch, "cubin", _compile(source, arch, "CUBIN")) for arch in archs]
    pieces.append((archs[0], "ptx", _compile(source, archs[0].replace("sm_", "compute_"), "PTX")))
    return _join(pieces)


def compiler_version() -> str | None:
    """NVRTC's version (`13.0`), or None where it is not installed."""
    try:
        library = _nvrtc()
    except CompileError:
        return None
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def _compile(source: str, arch: str, kind: str) -> bytes:
    library = _nvrtc()
    program = ctypes.c_void_p()
    text = (_PREAMBLE + source.replace("#include <cuda.h>", "")).encode()
    library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None)
    try:
        options = [f"--gpu-architecture={arch}", *_OPTIONS, *_includes()]
        given = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
        code = library.nvrtcCompileProgram(program, len(options), given)
        if code:
            log = _fetched(library, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            raise _failure(library, arch, code, log)
        return _fetched(library, program, kind)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _failure(library: ctypes.CDLL, arch: str, code: int, log: str) -> LeptonError:
    lines = [line for line in log.splitlines() if "error" in line] or log.splitlines()
    if any("--gpu-architecture" in line for line in lines):
        return TargetError(
            f"NVRTC {compiler_version()} does not build for {arch}; it builds for "
            f"{', '.join(_supported(library))}: name one of these, or install an NVRTC that does"
        )
    return CompileError(
        f"NVRTC could not compile the kernels for {arch}: {'; '.join(lines[:3]) or code}"
    )


def _supported(library: ctypes.CDLL) -> list[str]:
    """The architectures that this NVRTC makes code for."""
    count = ctypes.c_int()
    library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    found = (ctypes.c_int * count.value)()
    library.nvrtcGetSupportedArchs(found)
    return [f"sm_{number}" for number in found]


def _fetched(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, data)
    return data.raw


def _join(pieces: Sequence[tuple[str, str, bytes]]) -> bytes:
    library = _load("nvfatbin")
    handle = ctypes.c_void_p()
    options = (ctypes.c_char_p * 1)(b"-64")
    _must(library.nvFatbinCreate(ctypes.byref(handle), options, 1), "nvFatbinCreate")
    try:
        for arch, kind, data in pieces:
            number = arch.removeprefix("sm_").encode()
            if kind == "ptx":
                # PTX is a text that ends in a zero, which counts
                added = library.nvFatbinAddPTX(handle, data, len(data), number, b"kernels", None)
            else:
                added = library.nvFatbinAddCubin(handle, data, len(data), number, b"kernels")
            _must(added, f"nvFatbin cannot add {kind} for {arch}")
        size = ctypes.c_size_t()
        _must(library.nvFatbinSize(handle, ctypes.byref(size)), "nvFatbinSize")
        made = ctypes.create_string_buffer(size.value)
        _must(library.nvFatbinGet(handle, made), "nvFatbinGet")
        return made.raw
    finally:
        library.nvFatbinDestroy(ctypes.byref(handle))


def _must(code: int, what: str) -> None:
    if code:
        raise CompileError(f"{what} failed with code {code}")


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    library = _load("nvrtc")
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


@functools.cache
def _load(stem: str) -> ctypes.CDLL:
    name = f"lib{stem}.so"
    tried = [path for folder in _roots() for path in sorted((folder / "lib").glob(f"{name}*"))]
    tried += [path for folder in _roots() for path in sorted((folder / "lib64").glob(f"{name}*"))]
    for path in tried:
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    found = ctypes.util.find_library(stem)
    if found is not None:
        return ctypes.CDLL(found)
    raise CompileError(f"{name}, part of NVIDIA's compiler, was not found: {_INSTALL}")


@functools.cache
def _roots() -> tuple[Path, ...]:
    """Folders with `include` and `lib`: the packages from PyPI first, then installed toolkits."""
    roots = []
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        roots += sorted(Path(place).glob("cu[0-9]*"), reverse=True)
    toolkit = os.environ.get("CUDA_PATH") or os.environ.get("CUDA_HOME")
    roots += [Path(toolkit)] if toolkit else [Path("/usr/local/cuda")]
    return tuple(root for root in roots if root.is_dir())


@functools.cache
def _includes() -> tuple[str, ...]:
    for root in _roots():
        include = root / "include"
        if (include / "mma.h").is_file():
            folders = [include, include / "cccl", root / "cccl"]
            return tuple(f"-I{folder}" for folder in folders if folder.is_dir())
    raise CompileError(f"CUDA's headers (mma.h) were not found: {_INSTALL}")
