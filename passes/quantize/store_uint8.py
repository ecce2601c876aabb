"""Keeping results in uint8 between kernels, where fusion would store them widened.

Where the only reader of a uint8 tensor widens it (a dequantize of a shortcut on its way to an add,
a cast before a mean), operator fusion would put that into the kernel that makes the tensor, and
four bytes per value would be stored in place of one. A tensor that the function returns is not
fused away, so these tensors are returned while fusion runs, and dropped from the outputs after.
"""

from __future__ import annotations

import tvm
from tvm import relax

from lepton_tvm.ir import graph as g

__all__ = ["drop_outputs", "return_stored"]


def return_stored(mod: tvm.IRModule) -> tuple[tvm.IRModule, int]:
    """`mod` with the stored uint8 tensors as further outputs, and how many there are.

    A tensor counts when an int8 kernel makes it (its value is a cast, the end of a
    requantization, or a quantize) and its only reader widens it. With none, `mod` itself.
    """
    func = g.main_of(mod)
    readers, made = g.consumers(func), g.definitions(func)
    stored = [
        var
        for var, value in made.items()
        if g.op_name(value) in ("relax.astype", "relax.quantize")
        and g.dtype_of(value) == "uint8"
        and [g.op_name(r.value) for r in readers[var]] in (["relax.dequantize"], ["relax.astype"])
    ]
    if not stored:
        return mod, 0
    return g.with_output(mod, _tuple([*_outputs(func), *stored])), len(stored)


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
