"""Where the tensors of a loaded model lie: in this process's memory, or on the first GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.runtime.library import ffi, global_function

__all__ = ["CPU", "GPU", "GpuMemory", "initialize"]

Array = npt.NDArray[Any]

CPU, GPU = 1, 2  # DLPack's kDLCPU and kDLCUDA
_POOLED = 2  # the VM's pooled allocator


def initialize(machine: Any, on_gpu: bool) -> None:
    """Give a VM its devices: constants and results lie on the first one."""
    places = [GPU, 0, _POOLED] if on_gpu else []
    machine["vm_initialization"](*places, CPU, 0, _POOLED)


class GpuMemory:
    """Copies between arrays and the first GPU; inputs keep their places there between calls."""

    def __init__(self) -> None:
        self._device = ffi().device("cuda", 0)
        self._inputs: dict[str, Any] = {}

    def put(self, name: str, array: Array) -> Any:
        """The tensor on the GPU that stands for input `name`, with the values of `array`."""
        tensor = self._inputs.get(name)
        if tensor is None:
            allocate = global_function("runtime.TVMTensorAllocWithScope")
            shape = ffi().Shape(array.shape)
            tensor = allocate(shape, ffi().dtype(str(array.dtype)), self._device, None)
            self._inputs[name] = tensor
        held = np.ascontiguousarray(array)
        copy = global_function("runtime.TVMTensorCopyFromBytes")
        copy(tensor, held.ctypes.data_as(ctypes.c_void_p), held.nbytes)
        return tensor

    def get(self, tensor: Any, shape: Sequence[int], dtype: str) -> Array:
        """A copy of a tensor, once everything that was started before is done."""
        out = np.empty(tuple(shape), np.dtype(dtype))
        copy = global_function("runtime.TVMTensorCopyToBytes")
        copy(tensor, out.ctypes.data_as(ctypes.c_void_p), out.nbytes)
        return out

    def wait(self) -> None:
        """Until all kernels that were started are done."""
        global_function("runtime.Device_StreamSync")(self._device, 0)
