"""Fold batch normalisation, and any per-channel scale and shift, into the op before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import tvm
from tvm import relax

from lepton_tvm.ir.graph import (
    Array,
    Expr,
    GraphBuilder,
    const_array,
    constant,
    consumers,
    dtype_of,
    main_of,
    op_name,
    rewrite,
    shape_of,
)
from lepton_tvm.passes.base import PassReport, Refused, Skipped
from lepton_tvm.passes.graph.linear_ops import (
    LINEAR_OPS,
    NO_INPUT_SCALE,
    bias_constant,
    channel_axis,
    input_channel_axis,
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
            sweep = _Sweep(mod)
            mod, count = rewrite(mod, sweep.visit)
            changed += count
            if count == 0:  # what the rules refused in the last sweep is what stays
                return mod, PassReport(self.name, changed, skipped=sweep.skipped())


class _NothingBefore(Refused):
    """No linear op stands before a scale, so it also matters what the op after it answers."""


class _Sweep:
    """One walk over the module: asks each op's rule, and keeps what the rules refuse."""

    def __init__(self, mod: tvm.IRModule) -> None:
        self._readers = {var.name: found for var, found in consumers(main_of(mod)).items()}
        self._before: dict[str, tuple[str, Refused]] = {}
        self._after: dict[str, Refused] = {}

    def visit(self, g: GraphBuilder, var: relax.Var, value: Expr) -> Expr | None:
        """What the rule of the op makes of it; None where it has none or refuses."""
        kind = op_name(value)
        rule = _RULES.get(kind)
        answer = rule(g, var, value) if rule is not None else None
        if not isinstance(answer, Refused):
            return answer
        if kind in LINEAR_OPS:
            self._after[var.name] = answer
        else:
            self._before[var.name] = kind, answer
        return None

    def skipped(self) -> tuple[Skipped, ...]:
        """Every batch norm, or scale of at least two channels, that stays, with its reason."""
        return tuple(
            Skipped(kind, name, self._reason(name, refused))
            for name, (kind, refused) in self._before.items()
        )

    def _reason(self, name: str, refused: Refused) -> str:
        if not isinstance(refused, _NothingBefore):
            return refused.reason
        after = self._readers[name]
        if len(after) == 1 and op_name(after[0].value) == "relax.add":
            after = self._readers[after[0].var.name]
        if len(after) != 1:
            return f"{refused.reason}, and its result is read in {len(after)} places"
        reader = after[0].var.name
        reason = self._after.get(reader, NO_INPUT_SCALE).reason
        return f"{refused.reason}, and '{reader}' after it {reason}"


def _refuse_batch_norm(g: GraphBuilder, var: relax.Var, call: Expr) -> Refused:
    return Refused("its statistics are not constant; fold parameters first")


def _fold_multiply(g: GraphBuilder, var: relax.Var, call: Expr) -> Expr | Refused | None:
    """multiply(linear(x, w), s) -> linear(x, w * s); a scale of one channel may stay silently."""
    scale = const_array(call.args[1])
    if scale is None:
        return None
    answer = _into_before(g, call, scale)
    if isinstance(answer, Refused) and not 1 < scale.size == max(scale.shape):
        return None
    return answer


def _into_before(g: GraphBuilder, call: Expr, scale: Array) -> Expr | Refused:
    """The op before with scaled outputs; a bias between the two is scaled as well."""
    before = g.value(call.args[0])
    bias = const_array(before.args[1]) if op_name(before) == "relax.add" else None
    chain = [call.args[0]] if bias is None else [call.args[0], before.args[0]]
    linear = g.value(chain[-1])
    if op_name(linear) not in LINEAR_OPS:
        kind = op_name(linear) or "a model input"
        return _NothingBefore(f"it follows '{chain[0].name}' ({kind})")
    for var in chain:
        readers = g.readers(var)
        if len(readers) > 1:
            others = ", ".join(r.var.name if r else "the output" for r in readers)
            return Refused(f"'{var.name}' is read in {len(readers)} places ({others})")
    if const_array(linear.args[1]) is None:
        return Refused(f"the weight of '{chain[-1].name}' is not constant; fold parameters first")
    scaled = None
    if shape_of(linear) == shape_of(before) == shape_of(call):
        vector = per_channel(scale, shape_of(call), channel_axis(linear))
        scaled = None if vector is None else scale_outputs(linear, vector.astype(np.float64))
    if scaled is None:
        return Refused("the scale does not run along the output channels")
    if bias is None:
        return scaled
    merged = (bias.astype(np.float64) * scale.astype(np.float64)).astype(bias.dtype)
    return relax.op.add(scaled, constant(merged))


def _merge_biases(g: GraphBuilder, var: relax.Var, call: Expr) -> Expr | None:
    """add(add(linear, b), c) -> add(linear, b + c); a scalar bias becomes one per channel.

    None for every other addition: as a bias it stays where it is.
    """
    before = g.single_use(call.args[0])
    shift = const_array(call.args[1])
    if before is None or shift is None:
        return None
    if op_name(before) in LINEAR_OPS and shift.size == 1:
        return _widen_bias(call, before, shift)
    bias = const_array(before.args[1]) if op_name(before) == "relax.add" else None
    linear = None if bias is None else g.value(before.args[0])
    if bias is None or not _is_bias(bias, linear, call) or not _is_bias(shift, linear, call):
        return None
    merged = bias.astype(np.float64) + shift.astype(np.float64)
    return relax.op.add(before.args[0], constant(merged.astype(bias.dtype)))


def _is_bias(array: Array, linear: Expr, call: Expr) -> bool:
    """Whether `call` adds `array` to the float result of `linear` as one value per channel."""
    if op_name(linear) not in LINEAR_OPS or shape_of(linear) != shape_of(call):
        return False
    vector = per_channel(array, shape_of(call), channel_axis(linear))
    return vector is not None and "float" in dtype_of(call)


def _widen_bias(call: Expr, linear: Expr, bias: Array) -> Expr | None:
    shape = shape_of(linear)
    wide = bias_constant(linear, np.full(shape[channel_axis(linear)], bias.reshape(())))
    if shape_of(wide) == bias.shape or shape != shape_of(call):
        return None
    return relax.op.add(call.args[0], wide)


def _into_after(g: GraphBuilder, var: relax.Var, call: Expr) -> Expr | Refused | None:
    """op(x * s + t, w) -> op(x, w * s) + op(t, w); the shift only where nothing is padded."""
    before = g.single_use(call.args[0])
    if before is None or op_name(before) not in ("relax.add", "relax.multiply"):
        return None
    array = const_array(before.args[1])
    if array is None or shape_of(before.args[0]) != shape_of(before):
        return NO_INPUT_SCALE
    vector = per_channel(array, shape_of(before), input_channel_axis(call))
    if vector is None:
        return NO_INPUT_SCALE
    values = vector.astype(np.float64)
    if op_name(before) == "relax.multiply":
        return scale_inputs(with_data(call, before.args[0]), values)
    if op_name(g.value(before.args[0])) in LINEAR_OPS:  # the bias of an op stays with it
        return None
    bias = shift_inputs(call, values)
    if isinstance(bias, Refused):
        return bias
    unshifted = g.typed(with_data(call, before.args[0]))
    return relax.op.add(g.emit(unshifted, var.name), bias_constant(unshifted, bias))


_Rule: TypeAlias = "Callable[[GraphBuilder, relax.Var, Expr], Expr | Refused | None]"
_RULES: dict[str, _Rule] = {
    "relax.nn.batch_norm": _refuse_batch_norm,
    "relax.multiply": _fold_multiply,
    "relax.add": _merge_biases,
    **dict.fromkeys(LINEAR_OPS, _into_after),
}
