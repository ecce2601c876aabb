"""Scheduled loop nests for a GPU become host code and a fat binary of kernels, without a GPU."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.tirx.build import split_host_device_mods, tir_to_runtime

from lepton_tvm.artifact.device_code import device_source
from lepton_tvm.artifact.nvrtc import compile_binary
from lepton_tvm.compiler.phase import Phase, run_phases
from lepton_tvm.errors import CompileError
from lepton_tvm.passes.loops.fused_sums import fused_sums
from lepton_tvm.targets import Target
from lepton_tvm.targets.cuda import gpu_of

__all__ = [
    "build_context",
    "build_kernels",
    "check_launches",
    "launches",
    "loop_phases",
    "machine_code",
]

_CONFIG = {
    "tirx.disable_assert": True,
    # it would let fragments of different shapes share one buffer
    "tirx.disable_storage_rewrite": True,
}
# Makes TVM leave CUDA source alone where it would compile it at once for the GPU at hand.
_NO_GPU = "TVM_COMPILE_FORCE_FALLBACK"


def loop_phases(target: Target) -> tuple[Phase, ...]:
    """From scheduled loop nests to host code and kernels: TVM's list for GPUs and `fused-sums`.

    Steps of TVM's list for other machines, and those that our configuration turns off, are left
    out. `fused-sums` makes sums of products one instruction each.
    """
    return (
        Phase("bind-target", tirx.transform.BindTarget(target.tvm)),
        # blocks -> plain loops over flat buffers
        Phase("canonicalize-loops", s_tir.transform.CanonicalizeLoop()),
        Phase("sums-across-threads", s_tir.transform.LowerCrossThreadReduction()),
        Phase("lower-init-blocks", s_tir.transform.LowerInitBlock()),
        Phase("place-buffers", s_tir.transform.PlanAndUpdateBufferAllocationLocation()),
        Phase("opaque-blocks", s_tir.transform.ConvertBlocksToOpaque()),
        Phase("lift-thread-bindings", s_tir.transform.LiftThreadBinding()),
        Phase("stage-shared-memory", s_tir.transform.ManifestSharedMemoryLocalStage()),
        Phase("compact-buffers", s_tir.transform.CompactBufferAllocation()),
        Phase("lower-copies", s_tir.transform.LowerAutoCopy()),
        Phase("unify-thread-bindings", s_tir.transform.UnifyThreadBinding()),
        Phase("lower-match-buffers", s_tir.transform.LowerMatchBuffer()),
        Phase("simplify-blocks", s_tir.transform.StmtSimplify()),
        Phase("permuted-layouts", s_tir.transform.InjectPermutedLayout()),
        Phase("mark-irregular-loops", s_tir.transform.AnnotateIrregularLoop()),
        Phase("software-pipeline", s_tir.transform.InjectSoftwarePipeline()),
        Phase("mma-buffer-layouts", s_tir.transform.TransformMmaBufferLayout()),
        Phase("lower-blocks", s_tir.transform.LowerOpaqueBlock()),
        Phase("flatten-buffers", tirx.transform.FlattenBuffer()),
        Phase("bfloat16-arithmetic", tirx.transform.BF16ComputeLegalize()),
        Phase("narrow-indices", tirx.transform.NarrowDataType(32)),
        # loops -> vectors and straight code
        Phase("split-loops-at-conditions", s_tir.transform.LoopPartition()),
        Phase("vectorize", tirx.transform.VectorizeLoop(True)),
        Phase("virtual-threads", s_tir.transform.InjectVirtualThread()),
        Phase("double-buffers", s_tir.transform.InjectDoubleBuffer()),
        Phase("hoist-conditions", s_tir.transform.HoistIfThenElse()),
        Phase("unroll", tirx.transform.UnrollLoop()),
        Phase("renormalize-indices", s_tir.transform.RenormalizeSplitPattern()),
        Phase("simplify-statements", tirx.transform.StmtSimplify()),
        Phase("remove-no-ops", tirx.transform.RemoveNoOp()),
        Phase("safe-selects", s_tir.transform.RewriteUnsafeSelect()),
        Phase("common-subexpressions", tirx.transform.CommonSubexprElim()),
        Phase("float8-arithmetic", tirx.transform.FP8ComputeLegalize()),
        # threads, shared memory, and functions that can be called from outside
        Phase("verify-memory", tirx.transform.VerifyMemory()),
        Phase("mark-entry", tirx.transform.AnnotateEntryFunc()),
        Phase("sync-shared", s_tir.transform.ThreadSync("shared")),
        Phase("sync-dynamic-shared", s_tir.transform.ThreadSync("shared.dyn")),
        Phase("sync-warps", s_tir.transform.ThreadSync("warp")),
        Phase("infer-fragments", s_tir.transform.InferFragment()),
        Phase("lower-thread-sums", s_tir.transform.LowerThreadAllreduce()),
        Phase("merge-shared-memory", s_tir.transform.MergeSharedMemoryAllocations()),
        Phase("split-host-device", tirx.transform.SplitHostDevice()),
        Phase("packed-calls", tirx.transform.MakePackedAPI()),
        Phase("float8-storage", tirx.transform.FP8StorageLegalize()),
        Phase("bfloat16-storage", tirx.transform.BF16StorageLegalize()),
        Phase("fused-sums", fused_sums),
        *_both_sides(),
    )


def _both_sides() -> tuple[Phase, ...]:
    """What is left for code generation: the host's functions, then the kernels."""
    return (
        Phase("host-builtins", _on(_is_host, tirx.transform.LowerTVMBuiltin())),
        Phase("host-intrinsics", _on(_is_host, tirx.transform.LowerIntrin())),
        Phase("kernel-warp-memory", _on(_is_kernel, tirx.transform.LowerWarpMemory())),
        Phase("kernel-simplify", _on(_is_kernel, tirx.transform.StmtSimplify())),
        Phase("kernel-intrinsics", _on(_is_kernel, tirx.transform.LowerIntrin())),
    )


def _on(
    side: Callable[[Any], bool], step: tvm.transform.Pass
) -> Callable[[tvm.IRModule], tvm.IRModule]:
    """`step` for the functions of one side of the machine; all others stay."""

    def run(mod: tvm.IRModule) -> tvm.IRModule:
        functions = {gvar: func for gvar, func in mod.functions.items() if side(func)}
        made = mod.clone()
        made.update(step(tvm.IRModule(functions, attrs=mod.attrs)))
        return made

    return run


def _is_host(func: Any) -> bool:
    return isinstance(func, tirx.PrimFunc) and not _is_kernel(func)


def _is_kernel(func: Any) -> bool:
    return isinstance(func, tirx.PrimFunc) and func.attrs["target"].kind.name == "cuda"


@contextmanager
def build_context(target: Target) -> Iterator[None]:
    """What machine code is generated in, for whole models and for single kernels alike."""
    with target.tvm, tvm.transform.PassContext(opt_level=3, config=_CONFIG):
        yield


def machine_code(kernels: tvm.IRModule, target: Target) -> tuple[Any, bytes]:
    """The host code as a runtime module with the kernels' source, and their fat binary.

    Takes functions that went through `loop_phases`. TVM's last steps are inside, which no hook can
    see: it removes assertions and writes LLVM's form and CUDA source. Raises CompileError where
    there is no kernel or, with the compiler's message, where one asks for more memory than there
    is. Registers cannot be too many: the compiler is told the threads of a block.
    """
    host, devices = split_host_device_mods(kernels)
    with _source_only():
        library = tir_to_runtime(host, devices, target.tvm.host)
    source = device_source(tvm.runtime.Executable(library))
    if source is None:
        raise CompileError(f"this model has no kernel to run on {target}")
    return library, compile_binary(source, gpu_of(target).archs)


def build_kernels(module: tvm.IRModule, target: Target) -> tuple[Any, bytes]:
    """Scheduled functions without a model around them: an executable, and the kernels' code.

    Raises CompileError as `check_launches` and `machine_code` do.
    """
    check_launches(module, target)
    with build_context(target):
        lowered = run_phases(loop_phases(target), module)
        library, code = machine_code(lowered.module, target)
    return tvm.runtime.Executable(library), code


def check_launches(mod: tvm.IRModule, target: Target) -> tvm.IRModule:
    """The module as it is, where every loop nest is one for a GPU, of a size that can be launched.

    Raises CompileError where a function has no schedule (it would run on one thread) or asks for a
    larger grid or more threads than there are.
    """
    for gvar, func in mod.functions.items():
        if isinstance(func, tirx.PrimFunc):
            for extents in launches(func):
                _check_launch(gvar.name_hint, extents, target)
    return mod


def _check_launch(name: str, extents: dict[str, int], target: Target) -> None:
    gpu = gpu_of(target)
    threads = math.prod(n for tag, n in extents.items() if tag.startswith("threadIdx"))
    if not any(tag.startswith("threadIdx") for tag in extents):
        raise CompileError(
            f"no template schedules '{name}' for {target}; please report it with the model"
        )
    if threads > gpu.threads:
        raise CompileError(
            f"'{name}' asks for {threads} threads a block, {target} has {gpu.threads}"
        )
    for tag, most in gpu.extents.items():
        if extents.get(tag, 1) > most:
            raise CompileError(
                f"'{name}' asks for a {tag} of {extents[tag]}, {target} has {most}; "
                "please report it with the model"
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
