"""Questions to a fused module before it is scheduled: which kernels it calls, and what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from lepton_tvm.ir.graph import bindings_of, is_constant, main_of, op_name
from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.schedules.base import kernel_notes, new_schedule

__all__ = ["anchor_notes", "kernel_calls", "kernel_hash", "ops_of_calls"]


def kernel_calls(mod: tvm.IRModule) -> list[tuple[str, Any]]:
    """The calls of kernels in `main`, in order: the function's name and the arguments."""
    values = [b.value for b in bindings_of(main_of(mod))]
    calls = [v for v in values if op_name(v).startswith("call_tir:")]
    return [(call.args[0].name_hint, call.args[1]) for call in calls]


def ops_of_calls(mod: tvm.IRModule, weights: Mapping[int, Any]) -> list[int | None]:
    """For each call of a kernel, in order, the number of the op that it came from.

    `weights` are those that the ops were packed to (`PlansByOp.weights`): fusion passes constants
    on as they are, so a call that reads an op's weights is that op's. None for all other calls.
    """
    by_value = [(op, constant.value) for op, constant in weights.items()]

    def op_of(arguments: Any) -> int | None:
        values = [a.value for a in getattr(arguments, "fields", [arguments]) if is_constant(a)]
        return next((op for op, w in by_value if any(w.same_as(v) for v in values)), None)

    return [op_of(arguments) for _, arguments in kernel_calls(mod)]


def kernel_hash(func: tirx.PrimFunc) -> str:
    """What identifies a loop nest, whatever it is called: 16 hex digits of its structure."""
    plain = func.with_attr("global_symbol", "main")
    return f"{tvm_ffi.structural_hash(plain) & (1 << 64) - 1:016x}"


def anchor_notes(func: tirx.PrimFunc) -> KernelNotes | None:
    """The annotations of the block that does a kernel's main work; None where it has no such."""
    sch = new_schedule(func)
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        if (notes := kernel_notes(sch, block)) is not None:
            return notes
    return None
