"""Constant weights that an imported model holds as int8 codes and scales."""

from __future__ import annotations

import numpy as np
from tvm import relax

from lepton_tvm.ir.expressions import with_attrs
from lepton_tvm.ir.graph import (
    Expr,
    GraphBuilder,
    bindings_of,
    const_array,
    constant,
    consumers,
    op_name,
)
from lepton_tvm.ir.ops import named

__all__ = ["quantized_weights", "turn_quantized_weight"]

_ANCHORS = named("quantize", "anchor")


def quantized_weights(func: relax.Function) -> frozenset[relax.Var]:
    """The dequantized int8 constants that only convolutions and products read, as their weights.

    A turned matrix counts as well. They are kept, so that `LowerInt8` finds the codes; all other
    dequantized constants are folded.
    """
    readers = consumers(func)
    return frozenset(
        b.var for b in bindings_of(func) if _is_symmetric(b.value) and _is_weight(b.var, readers)
    )


def _is_symmetric(value: Expr) -> bool:
    if op_name(value) != "relax.dequantize":
        return False
    codes, zero = const_array(value.args[0]), const_array(value.args[2])
    return codes is not None and codes.dtype == np.int8 and zero is not None and not zero.any()


def _is_weight(var: relax.Var, readers: dict[relax.Var, list[relax.VarBinding]]) -> bool:
    def reads(binding: relax.VarBinding) -> bool:
        call = binding.value
        if op_name(call) == "relax.permute_dims":
            return _is_weight(binding.var, readers)
        return op_name(call) in _ANCHORS and call.args[1] == var and call.args[0] != var

    return bool(readers[var]) and all(reads(b) for b in readers[var])


def turn_quantized_weight(g: GraphBuilder, call: Expr) -> Expr | None:
    """permute_dims(dequantize(const)) -> dequantize(const), turned."""
    made = g.value(call.args[0])
    codes = const_array(made.args[0]) if op_name(made) == "relax.dequantize" else None
    if codes is None:
        return None
    order = [int(a) for a in call.attrs.axes or reversed(range(codes.ndim))]
    axis = order.index(int(made.attrs.axis) % codes.ndim)
    turned = constant(np.ascontiguousarray(codes.transpose(order)))
    return with_attrs(made, [turned, *made.args[1:]], axis=axis)
