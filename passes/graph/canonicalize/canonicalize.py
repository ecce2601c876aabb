"""Bring an imported module into the one form that all other passes expect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeAlias

import numpy as np
import tvm
from tvm import relax

from lepton_tvm.errors import CompileError
from lepton_tvm.ir.graph import (
    Expr,
    GraphBuilder,
    bindings_of,
    dtype_of,
    is_constant,
    main_of,
    op_name,
    rewrite,
    shape_of,
)
from lepton_tvm.passes.base import PassReport, Skipped
from lepton_tvm.passes.graph.canonicalize import simplify_arithmetic as arithmetic
from lepton_tvm.passes.graph.canonicalize import simplify_shapes as shapes
from lepton_tvm.passes.graph.canonicalize import widen_lines as lines
from lepton_tvm.passes.graph.canonicalize.constant_folding import (
    MAX_FOLDED_BYTES,
    fold_constant_call,
)
from lepton_tvm.passes.graph.canonicalize.quantized_weights import (
    quantized_weights,
    turn_quantized_weight,
)

__all__ = ["RULES", "Canonicalize"]

Rule: TypeAlias = Callable[[GraphBuilder, Expr], "Expr | None"]

_BOUNDS: tuple[Rule, ...] = (arithmetic.merge_bounds,)
_REDUCTION: tuple[Rule, ...] = (shapes.keep_reduced_dims,)

_OWN: dict[str, tuple[Rule, ...]] = {
    "call_tir:maximum": (arithmetic.bound_from_primfunc,),
    "call_tir:minimum": (arithmetic.bound_from_primfunc,),
    "call_tir:mirror_pad": (shapes.pad_from_primfunc,),
    "call_tir:pad": (shapes.pad_from_primfunc,),
    "call_tir:replicate_pad": (shapes.pad_from_primfunc,),
    "relax.add": (
        arithmetic.constant_to_the_right,
        arithmetic.drop_neutral,
        arithmetic.fit_constant_rank,
        arithmetic.merge_constants,
    ),
    "relax.astype": (shapes.drop_same_shape,),
    "relax.broadcast_to": (shapes.drop_same_shape,),
    "relax.clip": _BOUNDS,
    "relax.concat": (shapes.drop_same_shape,),
    "relax.divide": (arithmetic.divide_to_multiply,),
    "relax.expand_dims": (shapes.to_reshape,),
    "relax.flatten": (shapes.to_reshape,),
    "relax.max": _REDUCTION,
    "relax.maximum": _BOUNDS,
    "relax.mean": _REDUCTION,
    "relax.min": _REDUCTION,
    "relax.minimum": _BOUNDS,
    "relax.multiply": (
        arithmetic.constant_to_the_right,
        arithmetic.drop_neutral,
        arithmetic.fit_constant_rank,
        arithmetic.merge_constants,
    ),
    "relax.nn.adaptive_avg_pool2d": (arithmetic.global_pool_to_mean,),
    "relax.nn.avg_pool1d": (lines.widen_pool1d,),
    "relax.nn.avg_pool2d": (arithmetic.global_pool_to_mean,),
    "relax.nn.conv1d": (lines.widen_conv1d,),
    "relax.nn.conv1d_transpose": (lines.widen_conv1d_transpose,),
    "relax.nn.conv2d": (shapes.fold_pad_into_conv,),
    "relax.nn.max_pool1d": (lines.widen_pool1d,),
    "relax.nn.pad": (shapes.drop_same_shape,),
    "relax.nn.relu": _BOUNDS,
    "relax.permute_dims": (turn_quantized_weight, shapes.compose_permutes),
    "relax.power": (arithmetic.power_to_multiply,),
    "relax.reshape": (shapes.drop_same_shape, shapes.merge_reshapes),
    "relax.shape_to_tensor": (shapes.shape_to_constant,),
    "relax.squeeze": (shapes.to_reshape,),
    "relax.strided_slice": (shapes.drop_same_shape,),
    "relax.subtract": (arithmetic.subtract_to_add,),
    "relax.sum": _REDUCTION,
    "relax.take": (shapes.slice_from_take,),
    "relax.where": (shapes.select_known,),
}
_LINES: dict[str, tuple[Rule, ...]] = dict.fromkeys(lines.THROUGH, (lines.sink_line_reshape,))

#: Op -> rules, tried in order; the first that answers wins and the result is visited again.
RULES: dict[str, tuple[Rule, ...]] = {
    op: _OWN.get(op, ()) + _LINES.get(op, ()) for op in sorted({*_OWN, *_LINES})
}

_MAX_ROUNDS = 50


@dataclass(frozen=True)
class Canonicalize:
    """Fold constants, drop what does nothing, and write each idea in one way only.

    Before: `call_tir(maximum, x, 0)`, `call_tir(minimum, _, 6)`, `add(y, reshape(const))`
    After:  `R.clip(x, 0, 6)`, `R.add(y, const[1,K,1,1])`
    Also: batch_norm -> multiply and add; x - c -> x + (-c); x / c -> x * (1/c); x ** 2 -> x * x;
    squeeze, unsqueeze, flatten -> reshape; global average pool -> mean with kept dims; 1-d conv
    and pools -> 2-d of height 1; shapes as tensors -> constants; a zero pad before a conv -> its
    padding; permutes and reshapes meet.
    int8 weights below a dequantize stay so; beside them only what NumPy can evaluate is folded.
    Does not handle: control flow and symbolic shapes (refused), other PrimFuncs of the importer
    (kept and reported).
    """

    name: ClassVar[str] = "canonicalize"

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """Apply all rules until none fires."""
        mod = mod.clone()
        changed = 0
        for _ in range(_MAX_ROUNDS):
            mod, count = rewrite(mod, partial(_visit, quantized_weights(main_of(mod))))
            constant_calls = _constant_calls(mod) if count == 0 else []
            if constant_calls and max(map(_bytes, constant_calls)) <= MAX_FOLDED_BYTES:
                folded = relax.transform.FoldConstant()(mod)  # compiles each; rarely needed
                mod, _ = rewrite(folded, lambda g, var, value: None)
                count = int(len(_constant_calls(mod)) < len(constant_calls))
            if count == 0:
                return mod, PassReport(self.name, changed, skipped=_unrecognised(mod))
            changed += count
        raise CompileError(
            f"canonicalize did not settle in {_MAX_ROUNDS} rounds; two rules undo each other"
        )


def _visit(
    weights: frozenset[relax.Var], g: GraphBuilder, var: relax.Var, value: Expr
) -> Expr | None:
    if isinstance(value, relax.TupleGetItem):
        return _item(g, value)
    if not isinstance(value, tvm.ir.Call):
        return None
    folded = None if var in weights else fold_constant_call(value)
    if folded is not None:
        return folded
    for rule in RULES.get(op_name(value), ()):
        made = rule(g, value)
        if made is not None:
            return made
    return None


def _item(g: GraphBuilder, item: Expr) -> Expr | None:
    """A field of a known tuple; dropout and batch_norm return tuples whose first field counts."""
    made = g.value(item.tuple_value)
    if isinstance(made, relax.Tuple):
        return made.fields[item.index]
    if item.index != 0:
        return None
    if op_name(made) == "relax.nn.dropout":
        return made.args[0]
    if op_name(made) == "relax.nn.batch_norm":
        return arithmetic.affine_from_batch_norm(g, made)
    return None


def _constant_calls(mod: tvm.IRModule) -> list[Expr]:
    """The calls whose tensor arguments are all constant: no NumPy rule knows them.

    None where there are quantized weights: TVM would evaluate those as well.
    """
    found = []
    if quantized_weights(main_of(mod)):
        return []
    for binding in bindings_of(main_of(mod)):
        value = binding.value
        if not isinstance(value, tvm.ir.Call):
            continue
        args = value.args[1].fields if op_name(value).startswith("call_tir:") else value.args
        tensors = [a for a in args if is_constant(a) or isinstance(a, relax.Var | relax.Tuple)]
        if tensors and all(is_constant(a) for a in tensors):
            found.append(value)
    return found


def _bytes(call: Expr) -> int:
    ty = call.ty
    if isinstance(ty, tvm.ir.TupleType):
        return 0
    return int(np.prod(shape_of(call), dtype=np.int64)) * np.dtype(dtype_of(call)).itemsize


def _unrecognised(mod: tvm.IRModule) -> tuple[Skipped, ...]:
    return tuple(
        Skipped(op_name(b.value), b.var.name, "the importer emitted loops; no Relax op is known")
        for b in bindings_of(main_of(mod))
        if op_name(b.value).startswith("call_tir:")
    )
