"""Which of the processor's multiply-add instructions a scheduled function names."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

__all__ = ["dot_instruction"]

# A part of the name that the code generator knows -> the instruction, the strongest first.
_NAMES = {
    "mma s8": "mma s8",
    "mma bf16": "mma bf16",
    "__dp4a": "dp4a",
    "tdpbusd": "tdpbusd",
    "tdpbuud": "tdpbusd",
    "tdpbssd": "tdpbusd",
    "tdpbf16ps": "tdpbf16ps",
    "vpdpbusd": "vpdpbusd",
    "dpbf16": "vdpbf16ps",
    "pmadd.ub.sw": "pmaddubsw",
    "pmaddubs.w": "pmaddubsw",
    "pmadd.wd": "pmaddwd",
    "pmaddw.d": "pmaddwd",
    "usmmla": "usmmla",
    "usdot": "usdot",
    "sdot": "sdot",
    "neon.smull": "smull",
}


def dot_instruction(func: tirx.PrimFunc) -> str | None:
    """The strongest dot-product instruction in `func`, without the `v` of wider registers.

    None where it has none: its products, if any, are plain multiplications.
    """
    found: set[str] = set()

    def visit(node: Any) -> None:
        name = _called(node)
        if name is not None:
            found.update(told for part, told in _NAMES.items() if part in name)

    tvm_ffi.structural_walk(func.body, (tvm.ir.Call, visit))
    return next((told for told in _NAMES.values() if told in found), None)


def _called(call: Any) -> str | None:
    """The name of the LLVM intrinsic or function that `call` is a call of."""
    if not call.args:
        return None
    if str(getattr(call.op, "name", "")) == "tirx.tvm_mma_sync":
        # the type of a pointer to fragments
        return "mma s8" if "int8" in str(call.args[2].ty) else "mma bf16"
    first = call.args[0]
    if isinstance(first, tvm.ir.StringImm):
        return str(first.value)
    if isinstance(first, tirx.IntImm) and "llvm" in str(getattr(call.op, "name", "")):
        return str(tvm.target.codegen.llvm_get_intrinsic_name(int(first.value)))
    return None
