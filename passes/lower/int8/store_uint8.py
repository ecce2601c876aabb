"""Keeping results narrow (uint8, bfloat16) between kernels, where fusion would store them widened.

Where the only reader of a uint8 tensor widens it (a dequantize of a shortcut on its way to an add,
a cast before a mean), operator fusion would put that into the kernel that makes the tensor, and
four bytes per value would be stored in place of one; so too for bfloat16, with two in place of one.
A tensor that the function returns is not fused away, so these tensors are returned while fusion
runs, and dropped from the outputs after.
"""

from __future__ import annotations

import tvm
from tvm import relax

from lepton_tvm.ir import graph as g

__all__ = ["drop_outputs", "return_stored"]


def return_stored(mod: tvm.IRModule) -> tuple[tvm.IRModule, int]:
    """`mod` with the narrow tensors that fusion would widen as further outputs, and their number.

    A tensor counts when a kernel makes it narrow (its value is a cast, such as the end of a
    requantization, or a quantize) and its only reader (all of them, for bfloat16) widens it. With
    none, `mod` itself.
    """
    func = g.main_of(mod)
    readers, made = g.consumers(func), g.definitions(func)
    stored = [
        var
        for var, value in made.items()
        if g.op_name(value) in ("relax.astype", "relax.quantize")
        and _is_widened(g.dtype_of(value), [g.op_name(r.value) for r in readers[var]])
    ]
    if not stored:
        return mod, 0
    return g.with_output(mod, _tuple([*_outputs(func), *stored])), len(stored)


def _is_widened(dtype: str, readers: list[str]) -> bool:
    if dtype == "bfloat16":
        return set(readers) == {"relax.astype"}
    return dtype == "uint8" and readers in (["relax.dequantize"], ["relax.astype"])


def drop_outputs(mod: tvm.IRModule, count: int) -> tvm.IRModule:
    """`mod` without its last `count` outputs: the inverse of `return_stored`."""
    if count == 0:
        return mod
    return g.with_output(mod, _tuple(_outputs(g.main_of(mod))[:-count]))


def _outputs(func: relax.Function) -> list[g.Expr]:
    output = g.output_of(func)
    return list(output.fields) if isinstance(output, relax.Tuple) else [output]


def _tuple(outputs: list[g.Expr]) -> g.Expr:
    return outputs[0] if len(outputs) == 1 else relax.Tuple(outputs)
