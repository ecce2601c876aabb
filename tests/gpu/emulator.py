"""Kernels for GPUs run on this machine's CPU: their CUDA source, through `gpu_emulator.h`.

`Emulated` stands in for what only a GPU has: the compiler to machine code (here g++), the loader of
kernels (TVM's `ffi.Module.load_from_bytes.cuda`) and the device's memory (ordinary memory).
"""

from __future__ import annotations

import ctypes
import functools
import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm_ffi

__all__ = ["emulated_binary", "install"]

_HEADER = Path(__file__).with_name("gpu_emulator.h")
_MAGIC = b"\x50\xed\x55\xba"
_KERNEL = re.compile(
    r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\) \{', re.DOTALL
)
_FLAGS = (
    "-std=c++17", "-O1", "-w", "-fno-strict-aliasing", "-ffp-contract=off", "-fPIC", "-shared",
    # a vector at an odd address or an index behind a shared buffer ends the process
    "-fsanitize=alignment,bounds", "-fsanitize-undefined-trap-on-error",
)  # fmt: skip


def emulated_binary(source: str, archs: Sequence[str]) -> bytes:
    """In place of `nvrtc.compile_binary`: a shared library behind a fat binary's first bytes."""
    kernels = _KERNEL.findall(source)
    first = source.index('extern "C" __global__')
    wrappers = "\n".join(_wrapper(name, arguments) for name, arguments in kernels)
    with tempfile.TemporaryDirectory() as scratch:
        text, made = Path(scratch) / "kernels.cc", Path(scratch) / "kernels.so"
        # C++ wants alignment first
        body = re.sub(r"__shared__ (alignas\(\d+\))", r"\1 __shared__", source[first:])
        text.write_text(f'#include "{_HEADER}"\n{body}\n{wrappers}')
        done = subprocess.run(
            ["g++", *_FLAGS, "-o", made, text], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[:4000]
        return _MAGIC + made.read_bytes()


def _wrapper(name: str, arguments: str) -> str:
    """A packed function: pointers first, then the launch, whose order `LAUNCH` tells."""
    types = [a.strip().rsplit(" ", 1)[0].replace("__restrict__", "") for a in arguments.split(",")]
    casts = ", ".join(f"({kind})args[{i}].pointer" for i, kind in enumerate(types))
    return f"""
static std::vector<int> launch_{name};
extern "C" void launch_order_{name}(const int* order, int count) {{
  launch_{name}.assign(order, order + count);
}}
extern "C" int __tvm_ffi_{name}(void*, const TVMFFIAny* args, int32_t count, TVMFFIAny*) {{
  int extent[6] = {{1, 1, 1, 1, 1, 1}};
  for (size_t i = 0; i < launch_{name}.size(); ++i)
    extent[launch_{name}[i]] = static_cast<int>(args[{len(types)} + i].integer);
  launch([&] {{ {name}({casts}); }}, {{extent[0], extent[1], extent[2]}},
         {{extent[3], extent[4], extent[5]}});
  return 0;
}}"""


@functools.cache
def install() -> None:
    """Let TVM in this process load emulated kernels and take ordinary memory for a GPU's."""
    cpu = tvm_ffi.get_global_func("device_api.cpu")
    tvm_ffi.register_global_func("device_api.cuda", lambda: cpu(), override=True)
    tvm_ffi.register_global_func("ffi.Module.load_from_bytes.cuda", _loaded, override=True)


def _loaded(data: bytes) -> Any:
    """A module of emulated kernels from a CUDA module's bytes (see `artifact/device_code.py`)."""
    blob = bytes(data)
    start = blob.index(_MAGIC)
    with tempfile.TemporaryDirectory(prefix="gpu-emulator-") as folder:
        path = Path(folder) / "kernels.so"
        path.write_bytes(blob[start + len(_MAGIC) :])
        library = ctypes.CDLL(str(path))
        for name, tags in _launch_tags(blob[: start - 8]).items():
            places = [
                ("blockIdx", "threadIdx").index(t[:-2]) * 3 + "xyz".index(t[-1]) for t in tags
            ]
            given = (ctypes.c_int * len(places))(*places)
            getattr(library, f"launch_order_{name}")(given, len(places))
        return tvm_ffi.load_module(str(path))


def _launch_tags(table: bytes) -> dict[str, list[str]]:
    """Kernel name -> its launch parameters in order, from TVM's table of kernels."""
    strings = _strings(table)
    found: dict[str, list[str]] = {}
    name = None
    for text in strings:
        if re.fullmatch(r"(blockIdx|threadIdx)\.[xyz]", text):
            assert name is not None
            found[name].append(text)
        else:
            name = text
            found.setdefault(name, [])
    return {name: tags for name, tags in found.items() if tags}


def _strings(table: bytes) -> list[str]:
    """Every length-prefixed string of printable characters, in order."""
    found, at = [], 0
    while at + 8 <= len(table):
        (length,) = struct.unpack_from("<Q", table, at)
        text = table[at + 8 : at + 8 + length]
        if 4 < length < 256 and len(text) == length and re.fullmatch(rb"[\w.]+", text):
            found.append(text.decode())
            at += 8 + length
        else:
            at += 1
    return found
