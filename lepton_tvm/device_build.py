"""Scheduled loop nests for a GPU become host code and a fat binary of kernels, without a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tvm
from tvm import tirx

from lepton_tvm.artifact.device_code import device_source
from lepton_tvm.artifact.nvrtc import compile_binary
from lepton_tvm.errors import CompileError
from lepton_tvm.passes.fused_sums import fused_sums
from lepton_tvm.targets import Target
from lepton_tvm.targets.cuda import gpu_of

__all__ = ["DEVICE_PIPELINE", "build_device", "build_failure"]

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

    Raises CompileError where a function has no schedule (it would run on one thread), and with the
    compiler's message where a kernel needs more threads, registers or shared memory than there are.
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
    gpu = gpu_of(target)
    for gvar, func in mod.functions.items():
        if not isinstance(func, tirx.PrimFunc):
            continue
        threads = thread_counts(func)
        if not threads:
            raise CompileError(
                f"no template schedules '{gvar.name_hint}' for {target}; "
                "please report it with the model"
            )
        if max(threads) > gpu.threads:
            raise CompileError(
                f"'{gvar.name_hint}' asks for {max(threads)} threads a block, {target} has "
                f"{gpu.threads}"
            )


def thread_counts(func: tirx.PrimFunc) -> list[int]:
    """Threads of a block for every outermost loop nest of a scheduled function that has any."""
    counts: list[int] = []

    def visit(node: Any, around: dict[str, int]) -> None:
        if isinstance(node, tirx.For):
            tag = str(node.thread_binding.thread_tag) if node.thread_binding is not None else ""
            if tag.startswith("threadIdx"):
                around = {**around, tag: int(node.extent)}
                total = 1
                for extent in around.values():
                    total *= extent
                counts.append(total)
            visit(node.body, around)
            return
        for child in _children(node):
            visit(child, around)

    visit(func.body, {})
    return counts


def _children(node: Any) -> list[Any]:
    if isinstance(node, tirx.SeqStmt):
        return list(node.seq)
    found = [getattr(node, name, None) for name in ("body", "block", "then_case", "else_case")]
    return [child for child in found if child is not None]


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
