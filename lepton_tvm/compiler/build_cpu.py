"""Code generation for x86 and ARM: scheduled loop nests become machine code by LLVM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.tirx.build import tir_to_runtime

from lepton_tvm.compiler.phase import Phase, run_phases
from lepton_tvm.passes.loops.expand_math import expand_math
from lepton_tvm.passes.loops.masked_vectors import masked_vectors
from lepton_tvm.passes.loops.round_once import round_once
from lepton_tvm.passes.loops.saturating_narrow import saturating_narrow
from lepton_tvm.passes.loops.stack_buffers import stack_buffers
from lepton_tvm.targets import Target

__all__ = ["build_context", "build_kernels", "loop_phases", "machine_code"]


def loop_phases(target: Target) -> tuple[Phase, ...]:
    """From scheduled loop nests to functions that LLVM can take: TVM's list for CPUs and our steps.

    `masked-vectors` works on flat buffers whose vector loops are still loops, `expand-math` on
    vectors before tiles are unrolled, `stack-buffers` on what is left of the temporary buffers.
    TVM's CommonSubexprElim is left out: LLVM does the same in a hundredth of the time.
    """
    return (
        Phase("bind-target", tirx.transform.BindTarget(target.tvm)),
        # blocks -> plain loops over flat buffers
        Phase("canonicalize-loops", s_tir.transform.CanonicalizeLoop()),
        Phase("lower-init-blocks", s_tir.transform.LowerInitBlock()),
        Phase("place-buffers", s_tir.transform.PlanAndUpdateBufferAllocationLocation()),
        Phase("opaque-blocks", s_tir.transform.ConvertBlocksToOpaque()),
        Phase("compact-buffers", s_tir.transform.CompactBufferAllocation()),
        Phase("lower-match-buffers", s_tir.transform.LowerMatchBuffer()),
        Phase("simplify-blocks", s_tir.transform.StmtSimplify()),
        Phase("mark-irregular-loops", s_tir.transform.AnnotateIrregularLoop()),
        Phase("lower-blocks", s_tir.transform.LowerOpaqueBlock()),
        Phase("flatten-buffers", tirx.transform.FlattenBuffer()),
        Phase("bfloat16-arithmetic", tirx.transform.BF16ComputeLegalize()),
        Phase("narrow-indices", tirx.transform.NarrowDataType(32)),
        # loops -> vectors and straight code
        Phase("split-loops-at-conditions", s_tir.transform.LoopPartition()),
        Phase("masked-vectors", masked_vectors),
        Phase("vectorize", tirx.transform.VectorizeLoop(True)),
        Phase("expand-math", expand_math),
        Phase("share-buffers", tirx.transform.StorageRewrite()),
        Phase("hoist-conditions", s_tir.transform.HoistIfThenElse()),
        Phase("unroll", tirx.transform.UnrollLoop()),
        Phase("renormalize-indices", s_tir.transform.RenormalizeSplitPattern()),
        Phase("simplify-statements", tirx.transform.StmtSimplify()),
        Phase("remove-no-ops", tirx.transform.RemoveNoOp()),
        Phase("safe-selects", s_tir.transform.RewriteUnsafeSelect()),
        # functions that can be called from outside
        Phase("verify-memory", tirx.transform.VerifyMemory()),
        Phase("mark-entry", tirx.transform.AnnotateEntryFunc()),
        Phase("split-host-device", tirx.transform.SplitHostDevice()),
        Phase("packed-calls", tirx.transform.MakePackedAPI()),
        Phase("bfloat16-storage", tirx.transform.BF16StorageLegalize()),
        Phase("stack-buffers", stack_buffers),
        Phase("saturating-narrow", saturating_narrow),
        Phase("round-once", round_once),
        Phase("lower-builtins", tirx.transform.LowerTVMBuiltin()),
        Phase("lower-intrinsics", tirx.transform.LowerIntrin()),
    )


@contextmanager
def build_context(target: Target) -> Iterator[None]:
    """What machine code is generated in, for whole models and for single kernels alike."""
    with target.tvm, tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        yield


def machine_code(kernels: tvm.IRModule, target: Target) -> tuple[Any, None]:
    """What LLVM makes of functions that went through `loop_phases`: a runtime module.

    None stands where a target for GPUs has the code of its kernels. TVM's last steps are inside:
    it removes assertions and turns functions into LLVM's form, which no hook can see.
    """
    return tir_to_runtime(kernels, {}, target.tvm), None


def build_kernels(module: tvm.IRModule, target: Target) -> Any:
    """Scheduled functions without a model around them, as an executable."""
    with build_context(target):
        lowered = run_phases(loop_phases(target), module)
        library, _ = machine_code(lowered.module, target)
    return tvm.runtime.Executable(library)
