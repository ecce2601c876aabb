"""What this machine can do, found without loading the compiler: the findings of `doctor`."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from lepton_tvm.artifact.nvrtc import compiler_version
from lepton_tvm.errors import TargetError
from lepton_tvm.targets import FAMILIES, cpu_flags, host_arch, native_family
from lepton_tvm.targets.driver import gpus

__all__ = ["amx_permission", "ceiling", "cross_compilers", "examine", "pair_problems"]

#: The pair that is pinned: where another ffi stands beside this TVM, MetaSchedule segfaults.
TVM_VERSION = "0.27.0.post1"
FFI_VERSION = "0.1.14"

# arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18

PACKAGES = (
    "lepton-tvm",
    "apache-tvm",
    "apache-tvm-ffi",
    "onnx",
    "numpy",
    "onnxruntime",
    "openvino",
    "nncf",
)


def examine() -> dict[str, Any]:
    """All findings as one JSON object; `problems` lists what must be mended."""
    packages = {name: _version(name) for name in PACKAGES}
    levels = native_family().levels
    isa, problems = None, []
    try:
        isa = native_family().native()
    except TargetError as error:
        problems.append(str(error))
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        problems.append(
            "no C compiler: linking a model needs gcc; install it (Debian: apt-get install gcc)"
        )
    devices = gpus().devices
    problems += pair_problems(packages["apache-tvm"], packages["apache-tvm-ffi"])
    return {
        "machine": {
            "cpu": _cpu_name(),
            "architecture": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": _memory(),
            "isa": isa,
            "isas": [n for n, level in levels.items() if cpu_flags().issuperset(level.flags)],
            "has_amx": "amx_int8" in cpu_flags(),
            "amx_permission": amx_permission(),
        },
        "python": platform.python_version(),
        "packages": packages,
        "toolchain": {
            "c_compiler": compiler,
            "cross_compilers": cross_compilers(),
            "nvcc": shutil.which("nvcc"),
            "nvrtc": compiler_version(),
        },
        "targets": {f.name: [*f.levels, *f.processors] for f in FAMILIES.values()},
        "gpu": devices[0].name if devices else None,
        "gpus": [
            {
                "name": device.name,
                "compute_capability": f"{device.capability // 10}.{device.capability % 10}",
                "driver_cuda": device.driver_cuda,
            }
            for device in devices
        ],
        "expected_ceiling": ceiling(isa, _clock_ghz(), _vector_units()) if isa else None,
        "problems": problems,
    }


def cross_compilers() -> dict[str, str | None]:
    """The compiler that links for each architecture that is not this machine's, where it is."""
    foreign = {f.arch(): f.cross_compiler for f in FAMILIES.values() if f.cross_compiler}
    return {arch: shutil.which(cc) for arch, cc in foreign.items() if arch != host_arch()}


def pair_problems(tvm: str | None, ffi: str | None) -> list[str]:
    """What is wrong with these versions of apache-tvm and its ffi; empty where all is well."""
    mend = f'pip install "apache-tvm=={TVM_VERSION}" "apache-tvm-ffi>={FFI_VERSION}.post0,<0.1.15"'
    found = []
    if tvm is None:
        found.append(f"apache-tvm is not installed: {mend}")
    elif tvm != TVM_VERSION:
        found.append(f"apache-tvm {tvm} is installed, {TVM_VERSION} is needed: {mend}")
    if ffi is None:
        found.append(f"apache-tvm-ffi is not installed: {mend}")
    elif not re.fullmatch(re.escape(FFI_VERSION) + r"\.post\d+", ffi):
        found.append(
            f"apache-tvm-ffi {ffi} is installed, {FFI_VERSION}.post0 or .post1 is needed: beside "
            f"apache-tvm {TVM_VERSION}, 0.1.15 ends MetaSchedule with a segmentation fault: {mend}"
        )
    return found


def ceiling(isa: str, clock_ghz: float | None, units: int = 2) -> dict[str, Any]:
    """Arithmetic limits of one core, in Gop/s (one multiply-add = two), from the vector width.

    `units` vector units at the nominal clock, which a core may exceed; `None` where the clock is
    unknown, and for bfloat16 where there are no instructions for it. With VNNI bytes take a quarter
    of float32's multiplications. Without it three take the place of eight: two `vpmaddubsw`, whose
    16-bit sums are added, and one `vpmaddwd` that widens them. bfloat16 takes half of them with
    AVX512-BF16; AMX multiplies 32 times as many bytes and 16 times as many bfloat16 numbers. ARM
    has the same quarter with sdot or usdot; without them bytes take as many instructions as floats.
    """
    level = next(f.levels[isa] for f in FAMILIES.values() if isa in f.levels)
    without = 1 if level.offset else round(8 / 3, 2)
    int8 = 32 if level.amx else 4 if level.dot4 else without
    bfloat16 = 16 if level.amx else 2 if level.bf16 else None
    gops = None if clock_ghz is None else round(clock_ghz * level.lanes * units * 2, 1)
    return {
        "float32_gops_per_core": gops,
        "bfloat16_gops_per_core": None if gops is None or bfloat16 is None else gops * bfloat16,
        "int8_gops_per_core": None if gops is None else round(gops * int8, 1),
        "bfloat16_over_float32": bfloat16,
        "int8_over_float32": int8,
        "clock_ghz": clock_ghz,
        "basis": f"{level.lanes} lanes x {units} vector unit(s) x multiply-add, nominal clock",
    }


def amx_permission() -> bool | None:
    """Whether Linux grants this process the tile registers; None where the CPU has none.

    Asking is what a compiled model does, too; it holds for the life of this process.
    """
    if "amx_tile" not in cpu_flags():
        return None
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or "unknown"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _clock_ghz() -> float | None:
    import psutil

    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        return None
    mhz = (frequency.max or frequency.current) if frequency else 0
    return round(mhz / 1000, 2) if mhz else None


def _vector_units() -> int:
    """Multiply-add units of full register width: AMD's Zen 4 splits 512-bit registers in two."""
    family = re.search(r"^cpu family\s*:\s*(\d+)$", _cpuinfo(), re.MULTILINE)
    amd = "AuthenticAMD" in _cpuinfo()
    zen4 = amd and family is not None and int(family[1]) == 25 and "avx512f" in cpu_flags()
    return 1 if zen4 else 2


def _memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)
