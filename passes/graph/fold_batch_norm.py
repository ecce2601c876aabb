"""Fold batch normalisation, and any per-channel scale and shift, into the op before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tvm
from tvm import relax

from lepton_tvm.ir.graph import (
    Array,
    Expr,
    GraphBuilder,
    bindings_of,
    const_array,
    constant,
    consumers,
    definitions,
    dtype_of,
    main_of,
    op_name,
    rewrite,
    shape_of,
)
from lepton_tvm.passes.base import PassReport, Skipped
from lepton_tvm.passes.graph.linear_ops import (
    LINEAR_OPS,
    bias_constant,
    channel_axis,
    input_channel_axis,
    is_padded,
    per_channel,
    scale_inputs,
    scale_outputs,
    shift_inputs,
    with_data,
)

__all__ = ["FoldBatchNorm"]


@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold the multiply and add of a batch norm into the weight and bias before it.

    Before: `multiply(add(conv2d(x, w), b), scale)`, `add(_, shift)`
    After:  `add(conv2d(x, w * scale), b * scale + shift)`
    Also for depthwise, grouped and transposed convolutions and for matmul, in any layout; and a
    scale and shift *before* an op go into it, the shift only where no border is padded with zeros.
    Products are taken in float64. Run `Canonicalize` first: it writes batch_norm as multiply, add.
    Does not handle: a shift before a padded convolution, a result that others read too (reported).
    """

    name: ClassVar[str] = "fold-batch-norm"

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """Apply the pass; each multiply or add that was folded counts as one change."""
        mod = mod.clone()
        changed = 0
        while True:
            mod, count = rewrite(mod, _visit)
            changed += count
            if count == 0:
                return mod, PassReport(self.name, changed, skipped=_left_alone(mod))


def _visit(g: GraphBuilder, var: relax.Var, value: Expr) -> Expr | None:
    if op_name(value) == "relax.multiply":
        return _fold_multiply(g, value)
    if op_name(value) == "relax.add":
        return _fold_add(g, value)
    if op_name(value) in LINEAR_OPS:
        return _fold_forward(g, var, value)
    return None


def _fold_multiply(g: GraphBuilder, call: Expr) -> Expr | None:
    before = g.single_use(call.args[0])
    scale = const_array(call.args[1])
    if before is None or scale is None:
        return None
    bias: Array | None = None
    linear = before
    if op_name(before) == "relax.add":
        bias = const_array(before.args[1])
        found = g.single_use(before.args[0])
        if bias is None or found is None or shape_of(before) != shape_of(found):
            return None
        linear = found
    if op_name(linear) not in LINEAR_OPS or shape_of(linear) != shape_of(call):
        return None
    vector = per_channel(scale, shape_of(call), channel_axis(linear))
    if vector is None:
        return None
    scaled = scale_outputs(linear, vector.astype(np.float64))
    if scaled is None or bias is None:
        return scaled
    merged = (bias.astype(np.float64) * scale.astype(np.float64)).astype(bias.dtype)
    return relax.op.add(scaled, constant(merged))


def _fold_add(g: GraphBuilder, call: Expr) -> Expr | None:
    """add(add(linear, b), c) -> add(linear, b + c); a scalar bias becomes one per channel."""
    before = g.single_use(call.args[0])
    shift = const_array(call.args[1])
    if before is None or shift is None:
        return None
    if op_name(before) in LINEAR_OPS and shift.size == 1:
        return _widen_bias(call, before, shift)
    if op_name(before) != "relax.add":
        return None
    bias = const_array(before.args[1])
    linear = g.value(before.args[0])
    if bias is None or op_name(linear) not in LINEAR_OPS or shape_of(linear) != shape_of(call):
        return None
    if "float" not in dtype_of(call):
        return None
    axis = channel_axis(linear)
    if per_channel(bias, shape_of(call), axis) is None:
        return None
    if per_channel(shift, shape_of(call), axis) is None:
        return None
    merged = bias.astype(np.float64) + shift.astype(np.float64)
    return relax.op.add(before.args[0], constant(merged.astype(bias.dtype)))


def _widen_bias(call: Expr, linear: Expr, bias: Array) -> Expr | None:
    shape = shape_of(linear)
    wide = bias_constant(linear, np.full(shape[channel_axis(linear)], bias.reshape(())))
    if shape_of(wide) == bias.shape or shape != shape_of(call):
        return None
    return relax.op.add(call.args[0], wide)


def _fold_forward(g: GraphBuilder, var: relax.Var, call: Expr) -> Expr | None:
    """op(x * s + t, w) -> op(x, w * s) + op(t, w); the shift only where nothing is padded."""
    before = g.single_use(call.args[0])
    if before is None or op_name(before) not in ("relax.add", "relax.multiply"):
        return None
    constants = _input_constant(before, call)
    if constants is None:
        return None
    if op_name(before) == "relax.multiply":
        return scale_inputs(with_data(call, before.args[0]), constants)
    inner = g.value(before.args[0])
    bias = shift_inputs(call, constants)
    if bias is None or op_name(inner) in LINEAR_OPS:  # the bias of an op stays with it
        return None
    unshifted = g.typed(with_data(call, before.args[0]))
    return relax.op.add(g.emit(unshifted, var.name), bias_constant(unshifted, bias))


def _input_constant(before: Expr, call: Expr) -> Array | None:
    array = const_array(before.args[1])
    if array is None or shape_of(before.args[0]) != shape_of(before):
        return None
    vector = per_channel(array, shape_of(before), input_channel_axis(call))
    return None if vector is None else vector.astype(np.float64)


def _left_alone(mod: tvm.IRModule) -> tuple[Skipped, ...]:
    """Every batch norm, or scale of at least two channels, that is still there, with its reason."""
    func = main_of(mod)
    made, readers = definitions(func), consumers(func)
    skipped = []
    for binding in bindings_of(func):
        call = binding.value
        if op_name(call) == "relax.nn.batch_norm":
            reason = "its statistics are not constant; fold parameters first"
            skipped.append(Skipped(op_name(call), binding.var.name, reason))
        scale = const_array(call.args[1]) if op_name(call) == "relax.multiply" else None
        if scale is not None and scale.size > 1 and max(scale.shape) == scale.size:
            reason = _why_not(binding.var, call.args[0], made, readers)
            skipped.append(Skipped(op_name(call), binding.var.name, reason))
    return tuple(skipped)


def _why_not(
    scaled: relax.Var,
    data: relax.Var,
    made: dict[relax.Var, Expr],
    readers: dict[relax.Var, list[relax.VarBinding]],
) -> str:
    """Why neither the op before `scaled = data * constant` nor the one after it took the scale."""
    chain = [data]
    before = made.get(data, data)
    if op_name(before) == "relax.add" and const_array(before.args[1]) is not None:
        chain.append(before.args[0])
    linear = made.get(chain[-1], chain[-1])
    if op_name(linear) not in LINEAR_OPS:
        kind = op_name(linear) or "a model input"
        return f"it follows '{data.name}' ({kind}), and {_why_not_after(scaled, readers)}"
    for var in chain:
        if len(readers[var]) > 1:
            others = [b.var.name if b.var is not var else "the output" for b in readers[var]]
            return f"'{var.name}' is read in {len(others)} places ({', '.join(others)})"
    if const_array(linear.args[1]) is None:
        return f"the weight of '{chain[-1].name}' is not constant; fold parameters first"
    return "the scale does not run along the output channels"


def _why_not_after(scaled: relax.Var, readers: dict[relax.Var, list[relax.VarBinding]]) -> str:
    after = readers[scaled]
    if len(after) == 1 and op_name(after[0].value) == "relax.add":
        after = readers[after[0].var]
    if len(after) != 1:
        return f"its result is read in {len(after)} places"
    value = after[0].value
    if op_name(value) in LINEAR_OPS and is_padded(value):
        return f"'{after[0].var.name}' after it pads with zeros, which must not be shifted"
    return f"'{after[0].var.name}' after it cannot take a scale and a shift"
