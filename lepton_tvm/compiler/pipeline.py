"""The compiler as one list of phases per family of targets, and what runs it.

`cpu_phases` and `cuda_phases` are the lists. Nothing in them searches: the same module, target and
tuned schedules always give the same code. `watched` shows the module after every phase.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from lepton_tvm.compiler import build_cpu, build_cuda
from lepton_tvm.compiler.kernel_info import KernelInfo, describe_kernels
from lepton_tvm.compiler.phase import Lowered, Phase, run_phases
from lepton_tvm.compiler.tuned_plans import Tuned, TunedKernels, tuned_kernels
from lepton_tvm.errors import CompileError, LeptonError
from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.kernel_plan import DEFAULT_PLANS, Plans, PlansByOp
from lepton_tvm.passes.base import PassReport
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
    "Build",
    "Options",
    "Scheduled",
    "build",
    "cpu_phases",
    "cuda_phases",
    "executor",
    "fuse",
    "lower",
    "run",
]


@dataclass(frozen=True)
class Options:
    """What the phases of one build depend on.

    `plans` decides where `lower-kernels` has a choice, `decisions` are those of tuned kernels, by
    function.
    """

    target: Target
    winograd: bool = True
    plans: Plans = DEFAULT_PLANS
    decisions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def lower_kernels(self) -> LowerKernels:
        """The pass that packs weights and makes loop nests."""
        return LowerKernels(self.target, self.winograd, self.plans)

    def schedule(self, module: tvm.IRModule) -> tuple[tvm.IRModule, list[Applied]]:
        """Every function scheduled by the first rule that fits, or as it was tuned."""
        return apply_schedules(
            module, self.target, lambda name: Decided(self.decisions.get(name, {}))
        )


def cpu_phases(options: Options) -> tuple[Phase, ...]:
    """Every phase of a build for x86 and ARM, in order; LLVM's code generation comes after."""
    return (
        Phase("lower-int8", LowerInt8()),
        Phase("lower-kernels", options.lower_kernels()),
        Phase("return-stored", return_stored),
        Phase("legalize", relax.transform.LegalizeOps(dict(LEGALIZATIONS))),
        *_fusion(),
        Phase("schedule", options.schedule),
        *_vm_calls(),
        *build_cpu.loop_phases(options.target),
    )


def cuda_phases(options: Options) -> tuple[Phase, ...]:
    """Every phase of a build for GPUs, in order; the code generation of both sides comes after."""
    return (
        Phase("lower-int8", LowerInt8()),
        Phase("lower-kernels", options.lower_kernels()),
        Phase("return-stored", return_stored),
        Phase("legalize", relax.transform.LegalizeOps(dict(GPU_LEGALIZATIONS))),
        *_fusion(),
        Phase("schedule", options.schedule),
        Phase("check-launches", lambda mod: build_cuda.check_launches(mod, options.target)),
        *_vm_calls(),
        *build_cuda.loop_phases(options.target),
    )


def _fusion() -> tuple[Phase, ...]:
    """One function per anchor op with its epilogue, under a short name."""
    return (
        Phase("annotate-patterns", relax.transform.AnnotateTIROpPattern()),
        Phase("fuse-ops", relax.transform.FuseOps()),
        Phase("fuse-loop-nests", relax.transform.FuseTIR()),
        Phase("drop-stored", drop_outputs),
        Phase("remove-dead-code", relax.transform.DeadCodeElimination()),
        Phase("reshape-in-place", relax.transform.RewriteDataflowReshape()),
        Phase("remove-dead-reshapes", relax.transform.DeadCodeElimination()),
        Phase("name-kernels", NameKernels()),
    )


def _vm_calls() -> tuple[Phase, ...]:
    """After scheduling, `main` becomes calls of kernels in one static memory plan, for TVM's VM.

    TVM's KillAfterLastUse is left out: every shape is static, so the plan already reuses storage,
    and one more VM call per tensor costs some percent of a small model.
    """
    return (
        Phase("end-dataflow", relax.transform.ToNonDataflow()),
        Phase("allow-side-effects", relax.transform.RemovePurityChecking()),
        Phase("explicit-outputs", relax.transform.CallTIRRewrite()),
        Phase("remove-copies", relax.transform.CanonicalizeBindings()),  # else one per tensor
        Phase("plan-memory", relax.transform.StaticPlanBlockMemory()),
        Phase("lower-allocations", relax.transform.LowerAllocTensor()),
        Phase("lower-runtime-calls", relax.transform.LowerRuntimeBuiltin()),
        Phase("compute-numbers", relax.transform.ComputePrimValue()),
        Phase("check-shapes", relax.transform.VMShapeLower()),
        Phase("export-names", relax.transform.AttachGlobalSymbol()),
    )


@dataclass(frozen=True)
class _Family:
    """The list of a family of targets, and how it generates code from what the list gives."""

    phases: Callable[[Options], tuple[Phase, ...]]
    context: Callable[[Target], AbstractContextManager[None]]
    machine_code: Callable[[tvm.IRModule, Target], tuple[Any, bytes | None]]


_CPU = _Family(cpu_phases, build_cpu.build_context, build_cpu.machine_code)
_CUDA = _Family(cuda_phases, build_cuda.build_context, build_cuda.machine_code)
_FAMILIES: Mapping[str, _Family] = {"x86": _CPU, "arm": _CPU, "cuda": _CUDA}
# The last phases before and behind the schedules: builds are looked at there.
_FUSED, _SCHEDULED = "name-kernels", "schedule"


@dataclass(frozen=True)
class Scheduled(Lowered):
    """The scheduled module before code is generated from it."""

    schedules: tuple[Applied, ...] = ()
    kernels: tuple[KernelInfo, ...] = ()


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


def fuse(
    module: tvm.IRModule, target: Target, *, winograd: bool = True, plans: Plans = DEFAULT_PLANS
) -> Lowered:
    """All phases before the schedules: one loop nest per kernel; `module` is not changed.

    `plans` are those of `LowerKernels`.
    """
    phases = _FAMILIES[target.family].phases(Options(target, winograd, plans))
    with target.tvm:
        return run_phases(phases, module, through=_FUSED)


def lower(
    module: tvm.IRModule, target: Target, *, winograd: bool = True, tuned: Tuned | None = None
) -> Scheduled:
    """All phases up to and including the schedules; `module` is not changed.

    `tuned` is asked for every kernel; where it answers, its decisions replace the templates'
    analytical ones. The model is lowered once, unless a tuned kernel asks for another register
    tile or method than the default: that decides how its weights are packed, and with them the
    function and what fusion makes of it, so the phases up to the schedules run once more.
    """
    seen = PlansByOp()
    fused = fuse(module, target, winograd=winograd, plans=seen)
    found = TunedKernels()
    if tuned is not None:
        found = tuned_kernels(fused.module, seen, tuned)
    if seen.changing(found.plans):
        fused = fuse(module, target, winograd=winograd, plans=PlansByOp(found.plans))
    decisions = found.by_function(fused.module)
    phases = _FAMILIES[target.family].phases(Options(target, winograd, decisions=decisions))
    with target.tvm:
        made = run_phases(phases, fused.module, after=_FUSED, through=_SCHEDULED)
    (applied,) = made.reports
    kernels = describe_kernels(fused.module, made.module, applied, target, decisions)
    return Scheduled(made.module, fused.reports, tuple(applied), kernels)


def build(
    module: tvm.IRModule,
    target: Target | str = "native",
    *,
    winograd: bool = True,
    tuned: Tuned | None = None,
) -> Build:
    """Compile `module` (canonical form, or the quantized form) for `target`.

    Without `winograd` every float convolution adds its products directly, which rounds less.
    `tuned` gives the decisions of kernels that were tuned (see `lower`).
    Raises CompileError with the failing phase's message.
    """
    goal = parse_target(target)
    family = _FAMILIES[goal.family]
    lowered = lower(module, goal, winograd=winograd, tuned=tuned)
    phases = family.phases(Options(goal))
    with family.context(goal):
        try:
            finished = run_phases(phases, lowered.module, after=_SCHEDULED)
            executable, device_code = _executable(finished.module, goal, family)
        except LeptonError:
            raise
        except (RuntimeError, ValueError) as error:
            raise _build_failure(error, goal) from error
    return Build(executable, lowered.kernels, lowered.reports, goal, device_code)


def _executable(
    module: tvm.IRModule, target: Target, family: _Family
) -> tuple[relax.VMExecutable, bytes | None]:
    """VM code of `main` and machine code of the kernels, linked; and the code for a GPU."""
    builder = relax.ExecBuilder()
    rest = tvm.get_global_func("relax.VMCodeGen")(builder, module)
    kernels = {gvar: f for gvar, f in rest.functions.items() if isinstance(f, tirx.PrimFunc)}
    library, device_code = family.machine_code(tvm.IRModule(kernels, attrs=rest.attrs), target)
    linked = tvm.get_global_func("relax.VMLink")(builder, target.tvm, library, [], {})
    return relax.VMExecutable(linked), device_code


def _build_failure(error: Exception, target: Target) -> CompileError:
    """TVM's last line as the project's own error."""
    return CompileError(
        f"the compiler could not build this model for {target}: "
        f"{str(error).strip().splitlines()[-1]}; please report it with the model"
    )


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
