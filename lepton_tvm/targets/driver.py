"""The NVIDIA GPUs of the machine at hand, asked from the driver's own library."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

__all__ = ["Device", "Devices", "gpus"]

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NAME = 256


@dataclass(frozen=True)
class Device:
    """One GPU: name, compute capability (80 for 8.0) and the CUDA version of its driver (13000)."""

    name: str
    capability: int
    driver: int

    @property
    def arch(self) -> str:
        """`sm_80`, ..."""
        return f"sm_{self.capability}"

    @property
    def driver_cuda(self) -> str:
        """The newest CUDA that the driver serves, as `13.0`."""
        return f"{self.driver // 1000}.{self.driver % 1000 // 10}"

    def __str__(self) -> str:
        return f"{self.name} ({self.arch}, driver for CUDA {self.driver_cuda})"


@dataclass(frozen=True)
class Devices:
    """The GPUs in the driver's order; with none, `reason` says why."""

    devices: tuple[Device, ...]
    reason: str | None = None


@functools.lru_cache(maxsize=1)
def gpus() -> Devices:
    """What libcuda tells; the answer of the first call is kept. Never raises."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Devices((), "this machine has no NVIDIA driver (libcuda.so.1 was not found)")
    code = cuda.cuInit(0)
    if code:
        return Devices((), f"the NVIDIA driver finds no usable GPU (cuInit answers {code})")
    count, driver = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    cuda.cuDriverGetVersion(ctypes.byref(driver))
    found = tuple(_device(cuda, index, driver.value) for index in range(count.value))
    return Devices(found, None if found else "the NVIDIA driver finds no GPU")


def _device(cuda: ctypes.CDLL, index: int, driver: int) -> Device:
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME)
    cuda.cuDeviceGet(ctypes.byref(handle), index)
    cuda.cuDeviceGetName(name, _NAME, handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle)
    text = name.value.decode(errors="replace")
    return Device(text, major.value * 10 + minor.value, driver)
