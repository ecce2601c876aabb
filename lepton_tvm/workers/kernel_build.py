"""From a loop nest and decisions to a shared library: the work of every builder."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx

from lepton_tvm.artifact.writer import find_compiler
from lepton_tvm.compiler import build_cpu, build_cuda
from lepton_tvm.errors import ArtifactError, CompileError, LeptonError
from lepton_tvm.ir.bfloat16 import load_kernel
from lepton_tvm.schedules.apply import apply_schedules
from lepton_tvm.schedules.base import Decided
from lepton_tvm.targets import Target, parse_target
from lepton_tvm.workers.kernel_link import link_kernel
from lepton_tvm.workers.scratch_folders import is_full, told_reason
from lepton_tvm.workers.trial_requests import BuildRequest, Built

__all__ = ["build_kernel", "try_build"]

_FULL = (errno.ENOSPC, errno.EDQUOT)


def build_kernel(request: BuildRequest, folder: str | Path) -> Path:
    """Build one kernel to a new file in `folder`, in this process; the file.

    Links with the C compiler of the target. Raises CompileError where the schedule or the compiler
    refuses, ArtifactError where it cannot be linked.
    """
    descriptor, name = tempfile.mkstemp(prefix="kernel-", suffix=".so", dir=folder)
    os.close(descriptor)
    _build(request, Path(name))
    return Path(name)


@dataclass(frozen=True)
class _Scheduled:
    """A scheduled kernel, and what its template asked and did if there was one."""

    module: tvm.IRModule
    decided: Decided | None = None
    trace: Any = None


def _build(request: BuildRequest, path: Path) -> _Scheduled:
    goal = dataclasses.replace(parse_target(request.target), cores=request.cores)
    compiler = find_compiler(cross=goal.cross_compiler)
    scheduled = _schedule(request, goal)
    executable, device_code = _compile(scheduled.module, goal)
    try:
        link_kernel(executable, path, goal, compiler, device_code)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        path.with_suffix(".map").unlink(missing_ok=True)
    return scheduled


def _compile(module: tvm.IRModule, goal: Target) -> tuple[Any, bytes | None]:
    """The executable, and the machine code of its kernels for a GPU."""
    try:
        if goal.on_gpu:
            return build_cuda.build_kernels(module, goal)
        return build_cpu.build_kernels(module, goal), None
    except LeptonError:
        raise
    except (RuntimeError, ValueError) as error:
        raise CompileError(f"the compiler refused: {_last_line(error)}") from error


def try_build(request: BuildRequest, path: str | Path) -> Built:
    """Build one kernel to the file `path`; the answer says what went wrong instead of raising."""
    start = time.perf_counter()
    try:
        scheduled = _build(request, Path(path))
        decided = scheduled.decided or Decided({})
        asked = {name: (choices, default) for name, (choices, default, _) in decided.asked.items()}
        trace = _plain(scheduled.trace.as_json()) if scheduled.trace is not None else None
    except Exception as error:
        seconds = time.perf_counter() - start
        folder = Path(path).parent
        reason = _reason(error, folder)
        told = told_reason(reason, folder) if reason else _message(error)
        return Built(request.id, "failed", None, told, seconds, reason=reason)
    seconds = time.perf_counter() - start
    return Built(request.id, "ok", str(path), None, seconds, asked, decided.differing, trace)


def _schedule(request: BuildRequest, goal: Target) -> _Scheduled:
    module = tvm.IRModule({"main": _function(request.module)})
    if request.decisions is not None:
        return _by_template(module, goal, Decided(request.decisions))
    if request.trace is not None:
        module = _by_trace(module, request.trace)
    elif goal.tvm.kind.name != "llvm":
        with goal.tvm:
            module = s_tir.transform.DefaultGPUSchedule()(module)
    module["main"] = module["main"].with_attr("tirx.is_scheduled", True)
    return _Scheduled(module)


@functools.lru_cache(maxsize=128)
def _function(module: str) -> tirx.PrimFunc:
    """The unscheduled function; candidates of one task come one after the other."""
    return load_kernel(module)["main"].with_attr("global_symbol", "main")


def _by_template(module: tvm.IRModule, goal: Target, decided: Decided) -> _Scheduled:
    with goal.tvm:
        scheduled, (applied,) = apply_schedules(module, goal, lambda name: decided)
    if applied.failures and decided.differing:
        # Another rule would have taken it, which is not what was asked for.
        raise CompileError(f"the schedule cannot be carried out: {applied.failures[0]}")
    if applied.rule is None:
        return _Scheduled(scheduled)
    return _Scheduled(scheduled, decided, applied.trace)


def _by_trace(module: tvm.IRModule, trace: Any) -> tvm.IRModule:
    schedule = s_tir.Schedule(module)
    try:
        steps = json.loads(trace) if isinstance(trace, str) else trace
        s_tir.schedule.Trace.apply_json_to_schedule(steps, schedule)
    except (RuntimeError, ValueError, TypeError) as error:
        raise CompileError(f"the trace cannot be replayed: {_last_line(error)}") from error
    return schedule.mod


_JSON_TYPES = {type(None), bool, int, float, str}


def _plain(value: Any) -> Any:
    """TVM's containers and numbers as JSON's."""
    if type(value) in _JSON_TYPES:
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, tirx.IntImm):
        return int(value)
    if isinstance(value, tirx.FloatImm):
        return float(value.value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value]


def _reason(error: Exception, folder: Path) -> str | None:
    """Why nothing at all can be built here; None where the candidate is to blame."""
    if isinstance(error, ArtifactError) and "no C compiler found" in str(error):
        return "no-compiler"
    if not folder.is_dir():
        return "scratch-gone"
    if _is_full(error, folder):
        return "disk-full"
    return None


def _is_full(error: Exception, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return os.strerror(errno.ENOSPC) in str(error) or is_full(folder)


def _message(error: Exception) -> str:
    if isinstance(error, LeptonError):
        return str(error)
    return f"{type(error).__name__}: {_last_line(error)}"


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
