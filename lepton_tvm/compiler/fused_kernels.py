"""Questions to a fused module before it is scheduled: which kernels it calls, and what they are."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from lepton_tvm.ir.graph import bindings_of, main_of, op_name
from lepton_tvm.schedules.base import block_notes, new_schedule

__all__ = ["anchor_notes", "kernel_calls", "kernel_hash"]


def kernel_calls(mod: tvm.IRModule) -> list[tuple[str, Any]]:
    """The calls of kernels in `main`, in order: the function's name and the arguments."""
    values = [b.value for b in bindings_of(main_of(mod))]
    calls = [v for v in values if op_name(v).startswith("call_tir:")]
    return [(call.args[0].name_hint, call.args[1]) for call in calls]


def kernel_hash(func: tirx.PrimFunc) -> str:
    """What identifies a loop nest, whatever it is called: 16 hex digits of its structure."""
    plain = func.with_attr("global_symbol", "main")
    return f"{tvm_ffi.structural_hash(plain) & (1 << 64) - 1:016x}"


def anchor_notes(func: tirx.PrimFunc) -> dict[str, Any] | None:
    """The annotations of the block that does a kernel's main work; None where it has no such."""
    sch = new_schedule(func)
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        notes = block_notes(sch, block)
        if "lepton.kernel" in notes:
            return notes
    return None
