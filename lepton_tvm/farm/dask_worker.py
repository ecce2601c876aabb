"""What a process of a Dask cluster does for `DaskBuilder`. Takes and gives plain values."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from lepton_tvm.farm.rpc_wire import own_version
from lepton_tvm.runtime.library import tvm_version
from lepton_tvm.workers.local_builder import ParallelBuilder
from lepton_tvm.workers.trial_requests import Built
from lepton_tvm.workers.worker_wire import build_request, to_json

__all__ = ["build", "difference", "versions"]

_lock = threading.Lock()
_builders: dict[float, ParallelBuilder] = {}  # at most one, by its time-out


def versions() -> dict[str, str]:
    """What must be the same where kernels are asked for and where they are built."""
    return {
        "lepton_tvm": own_version(),
        "apache-tvm": str(tvm_version()),
        "apache-tvm-ffi": metadata.version("apache-tvm-ffi"),
    }


def difference(there: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """What is not the same, for people; None where all is."""
    told = [
        f"has {name} {there.get(name)}, this machine has {version}"
        for name, version in here.items()
        if there.get(name) != version
    ]
    return f"{'; '.join(told)}: install the same versions" if told else None


def build(
    fields: Mapping[str, Any], timeout_s: float, asked_by: Mapping[str, str]
) -> tuple[dict[str, Any], bytes]:
    """Build one kernel: the fields of `Built`, without a path, and the bytes of the library."""
    request = build_request(fields)
    problem = difference(versions(), asked_by)
    if problem:
        return to_json(Built(request.id, "failed", None, f"the Dask worker {problem}", 0.0)), b""
    with _lock:
        (answer,) = _builder(timeout_s).build([request])
    code = b""
    if answer.path is not None:
        code = Path(answer.path).read_bytes()
        Path(answer.path).unlink()
    return {**to_json(answer), "path": None}, code


def _builder(timeout_s: float) -> ParallelBuilder:
    """This process's, which stays warm between builds."""
    if timeout_s not in _builders:
        for old in _builders.values():
            old.close()
        _builders.clear()
        _builders[timeout_s] = ParallelBuilder(1, timeout_s)
        atexit.register(_builders[timeout_s].close)
    return _builders[timeout_s]
