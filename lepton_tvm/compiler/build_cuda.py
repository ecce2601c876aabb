"""Scheduled loop nests for a GPU become host code and a fat binary of kernels, without a GPU."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from lepton_tvm.artifact.device_code import device_source
from lepton_tvm.artifact.nvrtc import compile_binary
from lepton_tvm.errors import CompileError
from lepton_tvm.passes.loops.fused_sums import fused_sums
from lepton_tvm.targets import Target
from lepton_tvm.targets.cuda import gpu_of

__all__ = ["DEVICE_PIPELINE", "build_device", "build_failure", "launches"]

#: The name under which the lowering of loop nests for GPUs is registered with TVM.
DEVICE_PIPELINE = "lepton_tvm_device"

_CONFIG = {
    "tirx.disable_assert": True,
    # it would let fragments of different shapes share one buffer
    "tirx.disable_storage_rewrite": True,
}
# Makes TVM leave CUDA source alone where it would compile it at once for the GPU at hand.
_NO_GPU = "TVM_COMPILE_FORCE_FALLBACK"


def build_device(
    mod: tvm.IRModule, target: Target, relax_pipeline: tvm.transform.Pass | None = None
) -> tuple[Any, bytes]:
    """What `tvm.compile` makes of a scheduled module, and the machine code of its kernels.

    Raises CompileError where a function has no schedule (it would run on one thread), asks for a
    larger grid or more threads than there are, or, with the compiler's message, for more memory.
    Registers cannot be too many: the compiler is told the threads of a block.
    """
    _check_scheduled(mod, target)
    options = {} if relax_pipeline is None else {"relax_pipeline": relax_pipeline}
    with _source_only(), target.tvm, tvm.transform.PassContext(opt_level=3, config=_CONFIG):
        try:
            made = tvm.compile(mod, target.tvm, tir_pipeline=DEVICE_PIPELINE, **options)
        except (RuntimeError, ValueError) as error:
            raise build_failure(error, target) from error
    source = device_source(made)
    if source is None:
        raise CompileError(f"this model has no kernel to run on {target}")
    return made, compile_binary(source, gpu_of(target).archs)


def build_failure(error: Exception, target: Target) -> CompileError:
    """TVM's last line as the project's own error."""
    return CompileError(
        f"the compiler could not build this model for {target}: "
        f"{str(error).strip().splitlines()[-1]}; please report it with the model"
    )


def _check_scheduled(mod: tvm.IRModule, target: Target) -> None:
    """Every loop nest must be one for a GPU, of a size that can be launched."""
    gpu = gpu_of(target)
    for gvar, func in mod.functions.items():
        if not isinstance(func, tirx.PrimFunc):
            continue
        for extents in launches(func):
            threads = math.prod(n for tag, n in extents.items() if tag.startswith("threadIdx"))
            if not any(tag.startswith("threadIdx") for tag in extents):
                raise CompileError(
                    f"no template schedules '{gvar.name_hint}' for {target}; "
                    "please report it with the model"
                )
            if threads > gpu.threads:
                raise CompileError(
                    f"'{gvar.name_hint}' asks for {threads} threads a block, {target} has "
                    f"{gpu.threads}"
                )
            for tag, most in gpu.extents.items():
                if extents.get(tag, 1) > most:
                    raise CompileError(
                        f"'{gvar.name_hint}' asks for a {tag} of {extents[tag]}, {target} has "
                        f"{most}; please report it with the model"
                    )


def launches(func: tirx.PrimFunc) -> list[dict[str, int]]:
    """What each outermost loop nest of a scheduled function is launched with, in order.

    The extents of `blockIdx.x`, ..., `threadIdx.z`, where they are bound: none of a nest that is
    not for a GPU.
    """
    body = func.body
    while not isinstance(body, tirx.For | tirx.SeqStmt):
        inner = getattr(body, "block", None) or getattr(body, "body", None)
        if inner is None:
            return []
        body = inner
    return [_extents(nest) for nest in (body.seq if isinstance(body, tirx.SeqStmt) else [body])]


def _extents(nest: Any) -> dict[str, int]:
    found: dict[str, int] = {}

    def visit(loop: tirx.For) -> None:
        if loop.thread_binding is not None:
            tag = str(loop.thread_binding.thread_tag)
            found[tag] = max(found.get(tag, 0), int(loop.extent))

    tvm_ffi.structural_walk(nest, (tirx.For, visit))
    return found


@contextmanager
def _source_only() -> Iterator[None]:
    before = os.environ.get(_NO_GPU)
    os.environ[_NO_GPU] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_GPU]
        else:
            os.environ[_NO_GPU] = before


def _lower_loops() -> tuple[tvm.transform.Pass, ...]:
    """TVM's list for GPUs, then sums of products as one instruction each."""
    steps, *finish = tvm.tirx.get_tir_pipeline("s_tir")
    return (tvm.transform.Sequential([steps, fused_sums]), *finish)


tvm.tirx.compilation_pipeline.register_tir_pipeline(DEVICE_PIPELINE, _lower_loops)
