"""What was tuned of the kernels of one model: read off one lowering, for all that come after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import tvm

from lepton_tvm.compiler.fused_kernels import kernel_calls, kernel_hash, ops_of_calls
from lepton_tvm.kernels.kernel_plan import KernelPlan, PlansByOp

__all__ = ["Tuned", "TunedKernels", "tuned_kernels"]

#: The decisions that a search found for the kernel of a hash (`kernel_hash`), or None.
Tuned: TypeAlias = Callable[[str], "Mapping[str, int] | None"]


@dataclass(frozen=True)
class TunedKernels:
    """The decisions for each call of a kernel, in order, and the plans among them, by op.

    The order of the calls is the same however the ops are lowered, their names and hashes are not.
    """

    by_call: tuple[Mapping[str, int] | None, ...] = ()
    plans: Mapping[int, Mapping[str, int]] = field(default_factory=dict)

    def by_function(self, fused: tvm.IRModule) -> dict[str, Mapping[str, int]]:
        """The decisions that are not empty, by the names of the kernels of a lowering."""
        if not any(self.by_call):
            return {}
        names = [name for name, _ in kernel_calls(fused)]
        return {n: found for n, found in zip(names, self.by_call, strict=True) if found}


def tuned_kernels(fused: tvm.IRModule, seen: PlansByOp, tuned: Tuned) -> TunedKernels:
    """What `tuned` answers for the kernels of a module that was lowered with the plans `seen`.

    Those must be the default plans: tuned records are kept under the hashes of such kernels.
    """
    by_call = tuple(tuned(kernel_hash(fused[name])) for name, _ in kernel_calls(fused))
    if not any(by_call):
        return TunedKernels()
    ops = ops_of_calls(fused, seen.weights)
    plans = {
        op: {name: value for name, value in found.items() if name in KernelPlan.names}
        for op, found in zip(ops, by_call, strict=True)
        if op is not None and found
    }
    return TunedKernels(by_call, plans)
