"""A loaded model that can be called."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.errors import InputError
from lepton_tvm.model import TensorInfo
from lepton_tvm.runtime.library import ffi
from lepton_tvm.runtime.tensor_memory import GpuMemory
from lepton_tvm.runtime.threads import run_with_threads

__all__ = ["Net"]

Array = npt.NDArray[Any]
# Compiled kernels load whole vectors and may assume that buffers start at such an address.
_ALIGNMENT = 64


class Net:
    """A compiled model, loaded and ready.

    `net(x)` takes an array (single-input model) or a dict of name -> array with exactly the
    shapes and dtypes of `net.inputs`, and returns an array, or a dict by output name where there
    are several outputs. Returned arrays are the caller's own.

    Safe to call from several threads: calls of one `Net` run one after another (a lock), calls of
    different `Net`s run at the same time. For parallel throughput load one `Net` per thread.
    Do not use a `Net` made before `os.fork` in the child.
    """

    def __init__(
        self,
        machine: Any,
        manifest: dict[str, Any],
        *,
        sha256: str,
        path: Path,
        threads: int,
        gpu: GpuMemory | None = None,
    ) -> None:
        self.manifest = manifest
        self.sha256 = sha256
        self.path = path
        self.threads = threads
        self.inputs = tuple(TensorInfo.from_json(t) for t in manifest["inputs"])
        self.outputs = tuple(TensorInfo.from_json(t) for t in manifest["outputs"])
        self._machine = machine
        self._main = machine["main"]
        self._lock = threading.Lock()
        self._staging: dict[str, Array] = {}
        self._gpu = gpu

    def __call__(self, inputs: Any) -> Any:
        """Run once. Raises InputError naming the input whose name, shape or dtype is wrong."""
        arrays = self._check(inputs)
        with self._lock:
            args = [self._tensor(info, a) for info, a in zip(self.inputs, arrays, strict=True)]
            result = run_with_threads(self.threads, lambda: self._main(*args))
            values = self._collect(result)
        if len(values) == 1:
            return values[0]
        return {info.name: v for info, v in zip(self.outputs, values, strict=True)}

    def timer(self, inputs: Any = None) -> Callable[[int], float]:
        """A function that runs the model `n` times and returns the seconds one run took.

        Inputs are checked and copied once, here; what is timed is the inference and the allocation
        of its outputs, on a GPU until all kernels are done. `None` takes zeros. Not for use beside
        calls of the same `Net`.
        """
        arrays = self._check(self._zeros() if inputs is None else inputs)
        held = [aligned_copy(a) for a in arrays]
        args = [self._tensor(info, a) for info, a in zip(self.inputs, held, strict=True)]
        main, threads, gpu = self._main, self.threads, self._gpu

        def loop(number: int) -> float:
            start = time.perf_counter_ns()
            for _ in range(number):
                main(*args)
            if gpu is not None:
                gpu.wait()
            return (time.perf_counter_ns() - start) / number / 1e9

        def run(number: int = 1) -> float:
            if number < 1:
                raise InputError(f"number must be at least 1, found {number}")
            with self._lock:
                return run_with_threads(threads, lambda: loop(number))

        return run

    def time(
        self, inputs: Any = None, *, repeat: int = 10, number: int = 1, warmup: int = 3
    ) -> list[float]:
        """`repeat` raw samples in seconds, each the mean of `number` runs, after `warmup` runs."""
        run = self.timer(inputs)
        if warmup:
            run(warmup)
        return [run(number) for _ in range(repeat)]

    def instrument(self, hook: Callable[..., int]) -> None:
        """Have `hook(function, name, before, result, *arguments)` called around every call.

        `before` tells the call before from the one after; the answer 0 lets the call happen. There
        is no way back to an uninstrumented machine: load the artifact again.
        """
        self._machine["set_instrument"](hook)

    def __repr__(self) -> str:
        ins = ", ".join(f"{t.name}{list(t.shape)}" for t in self.inputs)
        outs = ", ".join(f"{t.name}{list(t.shape)}" for t in self.outputs)
        m = self.manifest
        return f"Net({m['name']!r}, {ins} -> {outs}, {m['precision']}, {m['isa']})"

    def _zeros(self) -> dict[str, Array]:
        return {t.name: np.zeros(t.shape, t.dtype) for t in self.inputs}

    def _check(self, inputs: Any) -> list[Array]:
        names = [t.name for t in self.inputs]
        if not isinstance(inputs, Mapping):
            if len(names) != 1:
                raise InputError(
                    f"the model takes {len(names)} inputs ({', '.join(names)}): give a dict of "
                    "input name -> array"
                )
            inputs = {names[0]: inputs}
        missing = [n for n in names if n not in inputs]
        unknown = [str(n) for n in inputs if n not in names]
        if missing or unknown:
            said = [f"missing {', '.join(missing)}"] if missing else []
            said += [f"unknown {', '.join(unknown)}"] if unknown else []
            raise InputError(
                f"wrong input names: {'; '.join(said)}; the model takes {', '.join(names)}"
            )
        return [_checked(info, inputs[info.name]) for info in self.inputs]

    def _tensor(self, info: TensorInfo, array: Array) -> Any:
        if self._gpu is not None:
            return self._gpu.put(info.name, array)
        if array.flags.c_contiguous and array.flags.writeable and _is_aligned(array):
            return ffi().from_dlpack(array)
        staging = self._staging.get(info.name)
        if staging is None:
            staging = self._staging[info.name] = _aligned_empty(info.shape, info.dtype)
        np.copyto(staging, array)
        return ffi().from_dlpack(staging)

    def _collect(self, result: Any) -> list[Array]:
        if self._gpu is not None:
            tensors = [result] if len(self.outputs) == 1 else list(result)
            return [
                self._gpu.get(t, info.shape, info.dtype)
                for t, info in zip(tensors, self.outputs, strict=True)
            ]
        # Copies: an output may share memory with an input or a constant of the model.
        if len(self.outputs) == 1 and hasattr(result, "__dlpack__"):
            return [np.array(np.from_dlpack(result))]
        return [np.array(np.from_dlpack(item)) for item in result]


def _checked(info: TensorInfo, value: Any) -> Array:
    array: Array = np.asarray(value)
    if array.shape != info.shape:
        raise InputError(
            f"input {info.name!r} has shape {list(array.shape)}, the model takes {list(info.shape)}"
        )
    if array.dtype != np.dtype(info.dtype):
        raise InputError(
            f"input {info.name!r} has dtype {array.dtype}, the model takes {info.dtype}; "
            f"convert it with .astype({info.dtype!r})"
        )
    return array


def aligned_copy(array: Array) -> Array:
    """A C-contiguous copy that starts at a 64-byte boundary."""
    out = _aligned_empty(array.shape, array.dtype)
    np.copyto(out, array)
    return out


def _is_aligned(array: Array) -> bool:
    return bool(array.ctypes.data % _ALIGNMENT == 0)


def _aligned_empty(shape: tuple[int, ...], dtype: Any) -> Array:
    kind = np.dtype(dtype)
    size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    aligned: Array = raw[start : start + size].view(kind).reshape(shape)
    return aligned
