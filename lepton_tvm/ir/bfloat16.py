"""bfloat16 in loop nests: its bits as uint16, widening, and rounding by the target's instruction.

TVM's own lowering turns every bfloat16 buffer inside a function into float32 and rounds with some
six integer instructions. Loop nests here hold the bits in uint16 buffers instead, and name two
helper functions, written in LLVM's language because TVM's code generator has no bfloat16 type:
`HELPERS` is their text, which a schedule imports (see `schedules.base.new_schedule`).
"""

from __future__ import annotations

import functools
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.op import register_intrin_lowering

__all__ = [
    "HELPERS",
    "bits",
    "dot_helper",
    "element_type",
    "from_bits",
    "load_kernel",
    "narrowed",
    "widened",
]

# Vectors of up to this many values are rounded by one call; the widest that schedules make.
_WIDEST = 64
_ROUND = "lepton_to_bfloat16"
_DOT = "lepton_dpbf16"
_OP = "tirx.lepton_to_bfloat16"


def element_type(value: Any) -> str:
    """The element type of a tensor or of a scalar expression, as `float32`."""
    dtype = value.dtype if hasattr(value, "dtype") else value.ty.dtype
    return str(dtype).removeprefix("T.")


def bits(value: Any) -> Any:
    """The 16 bits of a bfloat16 value as uint16."""
    return tirx.reinterpret("uint16", value)


def from_bits(value: Any) -> Any:
    """The bfloat16 value of 16 bits: the inverse of `bits`."""
    return tirx.reinterpret("bfloat16", value)


def widened(value: Any) -> Any:
    """A bfloat16 value, or its bits as uint16, as float32 (exact)."""
    word = value if element_type(value) == "uint16" else bits(value)
    high = tirx.shift_left(word.astype("uint32"), tirx.const(16, "uint32"))
    return tirx.reinterpret("float32", high)


def narrowed(value: Any) -> Any:
    """A float32 value rounded to bfloat16, half to even, by AVX512-BF16's `vcvtneps2bf16`.

    Subnormal values become zero. For targets that have the instruction only.
    """
    scalar = tirx.convert(value)
    return from_bits(tirx.call_intrin("uint16", _rounding_op(), scalar))


def load_kernel(text: str) -> tvm.IRModule:
    """Inverse of `tvm.ir.save_json` for kernels, which may hold the op that rounds."""
    _rounding_op()  # in a process that has lowered nothing TVM does not know it
    return tvm.ir.load_json(text)


def dot_helper(lanes: int) -> str:
    """The function (float32 sums, int32 words, int32 words) that adds two products per lane."""
    return f"{_DOT}_{lanes}"


@functools.cache
def _rounding_op() -> Any:
    """An op that vectorised loops keep and code generation turns into a call of a helper."""
    tvm.ir.register_op_attr(_OP, "TVectorizable", True)
    tvm.ir.register_op_attr(_OP, "TCallEffectKind", tirx.expr.CallEffectKind.Pure.value)

    def lower(call: Any) -> Any:
        lanes = int(call.ty.dtype.lanes)
        return tirx.call_pure_extern(call.ty.dtype, f"{_ROUND}_{lanes}", call.args[0])

    register_intrin_lowering(_OP, "llvm", f=lower)
    return tvm.ir.Op.get(_OP)


def _rounding(lanes: int) -> str:
    if lanes == 1:
        floats, halves, words = "float", "bfloat", "i16"
    else:
        floats, halves, words = (f"<{lanes} x {t}>" for t in ("float", "bfloat", "i16"))
    return f"""
define {words} @{_ROUND}_{lanes}({floats} %x) {{
  %rounded = fptrunc {floats} %x to {halves}
  %bits = bitcast {halves} %rounded to {words}
  ret {words} %bits
}}
"""


def _dot(lanes: int) -> str:
    sums, words, pairs = f"<{lanes} x float>", f"<{lanes} x i32>", f"<{2 * lanes} x bfloat>"
    instruction = f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}"
    return f"""
declare {sums} @{instruction}({sums}, {pairs}, {pairs})
define {sums} @{dot_helper(lanes)}({sums} %sum, {words} %a, {words} %b) {{
  %x = bitcast {words} %a to {pairs}
  %y = bitcast {words} %b to {pairs}
  %made = call {sums} @{instruction}({sums} %sum, {pairs} %y, {pairs} %x)
  ret {sums} %made
}}
"""


#: LLVM text of all helpers; what a function does not call leaves no code behind.
HELPERS = "".join([*map(_dot, (4, 8, 16)), *map(_rounding, range(1, _WIDEST + 1))])
