"""How long each call inside an artifact takes.

TVM's virtual machine calls a function before and after every call that it makes. A Python function
there would turn every tensor into a Python object first, 1 to 2 microseconds a call; a C function
made with ctypes gets addresses and notes the time in half a microsecond.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

from lepton_tvm.errors import LeptonError
from lepton_tvm.runtime.library import ffi
from lepton_tvm.runtime.loader import load

__all__ = ["CallProfiler"]

# TVMFFISafeCallType: handle, arguments, their number, place of the result; answers 0 for success.
_SAFE_CALL = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p
)


class CallProfiler:
    """An artifact loaded for timing its calls, on a machine of its own: hooks cannot be undone.

    `names` are the calls of one inference in order, kernels and the virtual machine's own
    (`vm.builtin...`). Every time includes a hook; the shortest call shows what that costs at most.
    """

    def __init__(self, path: str | Path, inputs: Any = None, threads: int = 1) -> None:
        self._net = load(path, threads)
        self._run = self._net.timer(inputs)
        self.names = self._names()
        self._stamps: list[int] = []
        add, now = self._stamps.append, time.perf_counter_ns

        def note(_handle: Any, _args: Any, _count: int, _result: Any) -> int:
            add(now())
            return 0

        self._hook = _SAFE_CALL(note)  # held: the machine has its address only
        address = ctypes.cast(self._hook, ctypes.c_void_p).value
        function = ffi().core.Function.__from_extern_c__(address, keep_alive_object=self._hook)
        self._net.instrument(function)

    def run(self, number: int = 1) -> tuple[float, list[float]]:
        """Run once uncounted, then `number` times: mean seconds of a run, and of each call."""
        self._run(1)
        self._stamps.clear()
        whole = self._run(number)
        stamps, calls = self._stamps, len(self.names)
        if len(stamps) != 2 * calls * number:
            raise LeptonError(
                f"artifact {self._net.path} made {len(stamps) // 2} calls in {number} runs, "
                f"{calls} in one before: it cannot be profiled"
            )
        taken = [after - before for before, after in zip(stamps[::2], stamps[1::2], strict=True)]
        return whole, [sum(taken[i::calls]) / number / 1e9 for i in range(calls)]

    def _names(self) -> tuple[str, ...]:
        found: list[str] = []

        def note(_function: Any, name: str, before: bool, _result: Any, *_args: Any) -> int:
            if before:
                found.append(str(name))
            return 0

        self._net.instrument(note)
        self._run(1)
        return tuple(found)
