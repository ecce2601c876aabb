"""Keeps small temporary buffers of lowered kernels on the stack."""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm import tirx

from lepton_tvm.ir.tir_rewrite import map_statements

__all__ = ["stack_buffers"]

# Worker threads have stacks of 8 MB; beyond this a call to the allocator does not matter.
_MOST_BYTES = 64 * 1024
# TVM's LowerTVMBuiltin leaves a buffer with this annotation to the code generator: an alloca.
_ON_STACK = "disable_lower_builtin"


@tvm.transform.module_pass(opt_level=0, name="lepton.stack_buffers")
def stack_buffers(mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
    """Mark every buffer of constant size up to 64 KiB to be allocated on the stack.

    Runs on lowered functions, right before LowerTVMBuiltin, which turns every other buffer into a
    call of TVM's workspace allocator: inside a parallel loop that is one call for every tile, and
    the sums of a tile are no longer seen to be private, so that they go through memory.
    """
    mod = mod.clone()
    for gvar, func in list(mod.functions.items()):
        if isinstance(func, tirx.PrimFunc):
            mod[gvar] = func.with_body(_marked(func.body))
    return mod


def _marked(stmt: Any) -> Any:
    """`stmt` with its small allocations annotated."""
    if not isinstance(stmt, tirx.AllocBuffer):
        return map_statements(stmt, _marked)
    if not _is_small(stmt.buffer):
        return stmt
    notes = {**dict(stmt.annotations.items()), _ON_STACK: tirx.IntImm("int32", 1)}
    return tirx.AllocBuffer(stmt.buffer, notes, stmt.span)


def _is_small(buffer: Any) -> bool:
    extents = list(buffer.shape)
    if not all(isinstance(e, tirx.IntImm) for e in extents):
        return False
    size: int = math.prod(int(e) for e in extents) * tvm.DataType(str(buffer.dtype)).itemsize
    return 0 < size <= _MOST_BYTES
