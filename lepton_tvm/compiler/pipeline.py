"""The compiler as one list of phases: a model's module goes in, an executable comes out.

    lower-int8      quantize/dequantize around an op -> integer arithmetic
    lower-kernels   convolutions and products -> loop nests over packed constant weights
    legalize        every other op -> a loop nest
    fuse            one function per anchor op with its epilogue
    schedule        the first rule that fits each function
    build           memory planned once, machine code by LLVM

Nothing here searches: the same module, target and tuned schedules always give the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax, s_tir, tirx

from lepton_tvm.compiler.build_cuda import build_device, build_failure
from lepton_tvm.compiler.fused_kernels import anchor_notes, kernel_calls, kernel_hash
from lepton_tvm.compiler.kernel_info import KernelInfo, describe_kernels
from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.kernel_plan import DEFAULT_PLANS, KernelPlan, Plans, PlansByOp
from lepton_tvm.passes.base import PassReport
from lepton_tvm.passes.loops.expand_math import expand_math
from lepton_tvm.passes.loops.masked_vectors import masked_vectors
from lepton_tvm.passes.loops.round_once import round_once
from lepton_tvm.passes.loops.saturating_narrow import saturating_narrow
from lepton_tvm.passes.loops.stack_buffers import stack_buffers
from lepton_tvm.passes.lower.int8.lower_int8 import LowerInt8
from lepton_tvm.passes.lower.int8.store_uint8 import drop_outputs, return_stored
from lepton_tvm.passes.lower.kernels.lower_kernels import LowerKernels
from lepton_tvm.passes.lower.legalize.legalize import LEGALIZATIONS
from lepton_tvm.passes.lower.legalize.legalize_gpu import GPU_LEGALIZATIONS
from lepton_tvm.passes.lower.name_kernels import NameKernels
from lepton_tvm.schedules.apply import Applied, apply_schedules
from lepton_tvm.schedules.base import Decided
from lepton_tvm.targets import Target, parse_target

__all__ = [
    "TIR_PIPELINE",
    "Build",
    "Fused",
    "Tuned",
    "build",
    "build_context",
    "executor",
    "fuse",
    "lower",
    "ops_of_kernels",
    "run",
]

#: The name under which the lowering of loop nests is registered with TVM.
TIR_PIPELINE = "lepton_tvm"

Progress = Callable[[str], None]
#: The decisions that a search found for the kernel of a hash (`kernels.kernel_hash`), or None.
Tuned = Callable[[str], "Mapping[str, int] | None"]


@dataclass(frozen=True)
class Build:
    """A built module: TVM's executable, one entry per kernel in call order, and pass reports.

    `device_code` is the fat binary of the kernels where the target is a GPU.
    """

    executable: Any
    kernels: tuple[KernelInfo, ...]
    reports: tuple[PassReport, ...]
    target: Target
    device_code: bytes | None = None


@dataclass(frozen=True)
class Lowered:
    """The scheduled module before code is generated from it."""

    module: tvm.IRModule
    schedules: tuple[Applied, ...]
    kernels: tuple[KernelInfo, ...]
    reports: tuple[PassReport, ...]


@dataclass(frozen=True)
class Fused:
    """A module with one loop nest per kernel, not yet scheduled, and the reports of its passes."""

    module: tvm.IRModule
    reports: tuple[PassReport, ...]


def fuse(
    module: tvm.IRModule,
    target: Target,
    progress: Progress | None = None,
    *,
    winograd: bool = True,
    plans: Plans = DEFAULT_PLANS,
    tagged: bool = False,
) -> Fused:
    """All phases before the schedules; `module` is not changed.

    `plans` and `tagged` are those of `LowerKernels`.
    """
    tell = progress or (lambda phase: None)
    reports = []
    tell("lower-int8")
    mod, report = LowerInt8()(module)
    reports.append(report)
    tell("lower-kernels")
    mod, report = LowerKernels(target, winograd, plans, tagged)(mod)
    reports.append(report)
    mod, stored = return_stored(mod)
    with target.tvm:
        tell("legalize")
        ways = GPU_LEGALIZATIONS if target.family == "cuda" else LEGALIZATIONS
        mod = relax.transform.LegalizeOps(dict(ways))(mod)
        tell("fuse")
        for step in (
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
        ):
            mod = step(mod)
        mod = drop_outputs(mod, stored)
        for step in (
            relax.transform.DeadCodeElimination(),
            relax.transform.RewriteDataflowReshape(),
            relax.transform.DeadCodeElimination(),
        ):
            mod = step(mod)
        fused, report = NameKernels()(mod)
        reports.append(report)
    return Fused(fused, tuple(reports))


def lower(
    module: tvm.IRModule,
    target: Target,
    progress: Progress | None = None,
    *,
    winograd: bool = True,
    tuned: Tuned | None = None,
) -> Lowered:
    """All phases up to and including the schedules; `module` is not changed.

    `tuned` is asked for every kernel; where it answers, its decisions replace the templates'
    analytical ones.
    """
    fused = fuse(module, target, progress, winograd=winograd)
    decisions: dict[str, Mapping[str, int]] = {}
    if tuned is not None:
        fused, decisions = _with_tuned_plans(module, target, fused, tuned, winograd)
    if progress is not None:
        progress("schedule")
    with target.tvm:
        mod, applied = apply_schedules(
            fused.module, target, lambda name: Decided(decisions.get(name, {}))
        )
    kernels = describe_kernels(fused.module, mod, applied, target, decisions)
    return Lowered(mod, tuple(applied), kernels, fused.reports)


def ops_of_kernels(module: tvm.IRModule, target: Target, *, winograd: bool) -> list[int | None]:
    """For each call of a kernel, in order, the number of the op whose plan it follows.

    None for kernels that have no plan. Numbers are those that `Plans.choose` is asked with.
    """
    tagged = fuse(module, target, winograd=winograd, tagged=True).module
    return [_op_of(tagged[name]) for name, _ in kernel_calls(tagged)]


def _op_of(func: tirx.PrimFunc) -> int | None:
    found = anchor_notes(func)
    return int(found["lepton.op"]) if found and "lepton.op" in found else None


def _with_tuned_plans(
    module: tvm.IRModule, target: Target, fused: Fused, tuned: Tuned, winograd: bool
) -> tuple[Fused, dict[str, Mapping[str, int]]]:
    """The module lowered as the tuned kernels ask, and their decisions by function."""
    by_call = [tuned(kernel_hash(fused.module[name])) for name, _ in kernel_calls(fused.module)]
    if not any(by_call):
        return fused, {}
    ops = ops_of_kernels(module, target, winograd=winograd)
    wanted = {
        op: {name: value for name, value in found.items() if name in KernelPlan.names}
        for op, found in zip(ops, by_call, strict=True)
        if op is not None and found
    }
    if any(wanted.values()):
        fused = fuse(module, target, winograd=winograd, plans=PlansByOp(wanted))
    names = [name for name, _ in kernel_calls(fused.module)]
    return fused, {n: found for n, found in zip(names, by_call, strict=True) if found}


def build(
    module: tvm.IRModule,
    target: Target | str = "native",
    progress: Progress | None = None,
    *,
    winograd: bool = True,
    tuned: Tuned | None = None,
) -> Build:
    """Compile `module` (canonical form, or the quantized form) for `target`.

    Without `winograd` every float convolution adds its products directly, which rounds less.
    `tuned` gives the decisions of kernels that were tuned (see `lower`).
    Raises CompileError with the failing phase's message; `progress` is told each phase's name.
    """
    goal = parse_target(target)
    lowered = lower(module, goal, progress, winograd=winograd, tuned=tuned)
    if progress is not None:
        progress("build")
    if goal.family == "cuda":
        executable, device_code = build_device(lowered.module, goal, _finish_relax())
        return Build(executable, lowered.kernels, lowered.reports, goal, device_code)
    with build_context(goal):
        try:
            executable = tvm.compile(
                lowered.module, goal.tvm, relax_pipeline=_finish_relax(), tir_pipeline=TIR_PIPELINE
            )
        except (RuntimeError, ValueError) as error:
            raise build_failure(error, goal) from error
    return Build(executable, lowered.kernels, lowered.reports, goal)


@contextmanager
def build_context(target: Target) -> Iterator[None]:
    """What machine code is generated in, for whole models and for single kernels alike."""
    with target.tvm, tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        yield


def executor(module: tvm.IRModule) -> Callable[[Sequence[Array]], list[Array]]:
    """`module` compiled for this machine, as a function from input arrays to output arrays."""
    built = build(module)
    machine = relax.VirtualMachine(built.executable, tvm.cpu())

    def call(inputs: Sequence[Array]) -> list[Array]:
        result = machine["main"](*[tvm.runtime.tensor(np.ascontiguousarray(x)) for x in inputs])
        return [r.numpy() for r in _tensors(result)]

    return call


def run(module: tvm.IRModule, inputs: Sequence[Array]) -> list[Array]:
    """Compile `module` for this machine and run it once."""
    return executor(module)(inputs)


def _tensors(result: Any) -> list[Any]:
    return [result] if hasattr(result, "numpy") else list(result)


def _finish_relax() -> tvm.transform.Pass:
    """Relax phases after scheduling: calls, one static memory plan, VM code.

    TVM's KillAfterLastUse is left out: every shape is static, so the plan already reuses storage,
    and one more VM call per tensor costs some percent of a small model.
    """
    return tvm.transform.Sequential(
        [
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.CanonicalizeBindings(),  # else one VM copy per tensor
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )


def _lower_loops() -> tuple[tvm.transform.Pass, ...]:
    """From scheduled loop nests to functions that LLVM can take: TVM's list for CPUs and our steps.

    `masked_vectors` works on flat buffers whose vector loops are still loops, `expand_math` on
    vectors before tiles are unrolled, `stack_buffers` on what is left of the temporary buffers.
    TVM's CommonSubexprElim is left out: LLVM does the same in a hundredth of the time.
    """
    _, *finish = tvm.tirx.get_tir_pipeline("s_tir")
    steps = [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.StmtSimplify(),
        s_tir.transform.AnnotateIrregularLoop(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.BF16ComputeLegalize(),
        tirx.transform.NarrowDataType(32),
        s_tir.transform.LoopPartition(),
        masked_vectors,
        tirx.transform.VectorizeLoop(True),
        expand_math,
        tirx.transform.StorageRewrite(),
        s_tir.transform.HoistIfThenElse(),
        tirx.transform.UnrollLoop(),
        s_tir.transform.RenormalizeSplitPattern(),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.VerifyMemory(),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
        tirx.transform.BF16StorageLegalize(),
        stack_buffers,
        saturating_narrow,
        round_once,
    ]
    return (tvm.transform.Sequential(steps), *finish)


tvm.tirx.compilation_pipeline.register_tir_pipeline(TIR_PIPELINE, _lower_loops)
