"""Keeping results narrow (uint8, bfloat16) between kernels, where fusion would store them widened.

Where the only reader of a uint8 tensor widens it (a dequantize of a shortcut on its way to an add,
a cast before a mean), operator fusion would put that into the kernel that makes the tensor, and
four bytes per value would be stored in place of one; so too for bfloat16, with two in place of one.
A tensor that the function returns is not fused away, so these tensors are returned while fusion
runs, and dropped from the outputs after. Between the two, an attribute of the module says how many
they are.
"""

from __future__ import annotations

import tvm
from tvm import relax

from lepton_tvm.ir import graph as g

__all__ = ["drop_outputs", "return_stored", "stored_outputs"]

_STORED = "lepton.stored"


def return_stored(mod: tvm.IRModule) -> tvm.IRModule:
    """`mod` with the narrow tensors that fusion would widen as further outputs.

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
        return mod
    made = g.with_output(mod, _tuple([*_outputs(func), *stored]))
    return made.with_attr(_STORED, len(stored))


def _is_widened(dtype: str, readers: list[str]) -> bool:
    if dtype == "bfloat16":
        return set(readers) == {"relax.astype"}
    return dtype == "uint8" and readers in (["relax.dequantize"], ["relax.astype"])


def stored_outputs(mod: tvm.IRModule) -> int:
    """How many of the last outputs of `mod` are only there while fusion runs."""
    return int(dict(mod.attrs or {}).get(_STORED, 0))


def drop_outputs(mod: tvm.IRModule) -> tvm.IRModule:
    """`mod` without the outputs that `return_stored` added."""
    count = stored_outputs(mod)
    if count == 0:
        return mod
    made = g.with_output(mod, _tuple(_outputs(g.main_of(mod))[:-count]))
    return made.without_attr(_STORED)


def _outputs(func: relax.Function) -> list[g.Expr]:
    output = g.output_of(func)
    return list(output.fields) if isinstance(output, relax.Tuple) else [output]


def _tuple(outputs: list[g.Expr]) -> g.Expr:
    return outputs[0] if len(outputs) == 1 else relax.Tuple(outputs)
