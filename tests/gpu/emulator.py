"""Kernels for GPUs run on this machine's CPU: their CUDA source, through `gpu_emulator.h`.

What only a GPU's machine has is stood in for at its lowest end: g++ for the compiler to machine
code (`emulated_binary`), and `emulated_driver.cc` for NVIDIA's driver and CUDA's runtime library,
which processes find by LD_LIBRARY_PATH. All between is the real thing: the project's own loader,
and TVM's CUDA runtime, which loads modules, packs arguments, launches and copies.
"""

from __future__ import annotations

import functools
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lepton_tvm.artifact import nvrtc

__all__ = ["emulated", "emulated_binary", "environment"]

_HERE = Path(__file__).parent
_MAGIC = b"\x50\xed\x55\xba"
_KERNEL = re.compile(
    r'extern "C" __global__ void (?:__launch_bounds__\((\d+)\) )?(\w+)\(([^)]*)\) \{', re.DOTALL
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
    wrappers = "\n".join(_wrapper(*kernel) for kernel in kernels)
    with tempfile.TemporaryDirectory() as scratch:
        text, made = Path(scratch) / "kernels.cc", Path(scratch) / "kernels.so"
        # C++ wants alignment first
        body = re.sub(r"__shared__ (alignas\(\d+\))", r"\1 __shared__", source[first:])
        text.write_text(f'#include "{_HERE / "gpu_emulator.h"}"\n{body}\n{wrappers}')
        _build([*_FLAGS, "-o", str(made), str(text)])
        code = made.read_bytes()
    return _MAGIC + struct.pack("<IQ", 0, len(code)) + code


def _wrapper(threads: str, name: str, arguments: str) -> str:
    """What the emulated driver finds of a kernel: `struct Kernel` there."""
    types = [a.strip().rsplit(" ", 1)[0].replace("__restrict__", "") for a in arguments.split(",")]
    values = ", ".join(f"*({kind}*)args[{i}]" for i, kind in enumerate(types))
    return f"""
static void body_{name}(void** args) {{ {name}({values}); }}
static void launch_{name}(void** args, const unsigned* extents) {{
  launch(body_{name}, args, extents);
}}
extern "C" const Kernel kernel_{name} = {{launch_{name}, {threads or 0}, {len(types)}}};"""


@functools.cache
def _libraries() -> Path:
    """A folder with libcuda.so.1 and libcudart.so.13 of the emulator; it stays until the end."""
    folder = Path(_scratch().name)
    source = str(_HERE / "emulated_driver.cc")
    common = ["-std=c++17", "-O1", "-fPIC", "-shared", source]
    common += [option for option in nvrtc._includes() if option.startswith("-I")]
    names = folder / "names.map"
    names.write_text("libcudart.so.13 { global: cuda*; };")
    driver = folder / "libcuda.so.1"
    _build([*common, "-DDRIVER", "-Wl,-soname,libcuda.so.1", "-o", str(driver)])
    runtime = ["-Wl,-soname,libcudart.so.13", f"-Wl,--version-script={names}", str(driver)]
    _build([*common, *runtime, "-o", str(folder / "libcudart.so.13")])
    return folder


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="emulated-gpu-")


def environment() -> Mapping[str, str]:
    """What a new process needs in its environment to find the emulated GPU."""
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(_libraries()), inherited]))}


@contextmanager
def emulated() -> Iterator[None]:
    """Processes that are started meanwhile find the emulated GPU."""
    before = dict(os.environ)
    os.environ.update(environment())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _build(options: Sequence[str]) -> None:
    done = subprocess.run(["g++", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
