"""What a forked runner does: one request, then it ends.

{"request": R, "timeout_s": T}  -> the fields of `RunResult`
"""

from __future__ import annotations

import socket
from pathlib import Path

from lepton_tvm.errors import LeptonError
from lepton_tvm.runtime.library import global_function
from lepton_tvm.workers.kernel_run import request_bytes, run_kernel
from lepton_tvm.workers.process_limits import limit_cpu_time, limit_memory
from lepton_tvm.workers.trial_requests import RunRequest, RunResult
from lepton_tvm.workers.worker_wire import receive, run_request, send, to_json

__all__ = ["serve", "warm_up"]

# Copies for the comparison in float64 are the most that the check itself takes.
_MEMORY_PER_BYTE = 64
_MEMORY = 1 << 30
_MEMORY_PER_THREAD = 160 << 20  # a stack and an arena of malloc


def warm_up() -> None:
    """Load TVM's runtime, not the compiler: a small process forks fast. Makes no threads."""
    global_function("runtime.TVMTensorAllocWithScope")
    global_function("runtime.TVMTensorCopyFromBytes")
    global_function("runtime.TVMTensorCopyToBytes")


def serve(channel: socket.socket) -> None:
    """Answer one request."""
    message = receive(channel)
    if message is None:
        return
    request = run_request(message["request"])
    limit_cpu_time(message["timeout_s"] * request.threads)
    if not request.on_gpu:  # a GPU's driver reserves more address space than any machine has memory
        limit_memory(
            _MEMORY
            + _MEMORY_PER_BYTE * request_bytes(request)
            + _MEMORY_PER_THREAD * request.threads
        )
    send(channel, to_json(_try_run(request)))


def _try_run(request: RunRequest) -> RunResult:
    try:
        return run_kernel(request)
    except LeptonError as error:
        return RunResult(request.id, "failed", error=str(error))
    except Exception as error:
        if missing := _missing(request):
            told = f"{missing} was removed before it was run"
            return RunResult(request.id, "failed", error=told, reason="scratch-gone")
        lines = str(error).strip().splitlines() or [""]
        return RunResult(request.id, "failed", error=f"{type(error).__name__}: {lines[-1]}")


def _missing(request: RunRequest) -> str | None:
    """A file of the request that is not there."""
    arguments = (*request.arguments, *request.reference_arguments)
    paths = [request.path, request.reference, *(a.path for a in arguments)]
    return next((p for p in paths if p is not None and not Path(p).is_file()), None)
