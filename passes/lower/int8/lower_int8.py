"""From quantize/dequantize pairs around float ops to true integer arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import tvm
from tvm import relax

from lepton_tvm.ir import graph as g
from lepton_tvm.passes.base import PassReport, Skipped
from lepton_tvm.passes.lower.int8 import integer_arithmetic as integer
from lepton_tvm.passes.lower.int8.integer_arithmetic import Accumulator, Quantized, Weight
from lepton_tvm.passes.quantize import ops
from lepton_tvm.passes.quantize.qparams import PIXELS, QParams

__all__ = ["LowerInt8"]

# The smallest value of an activation's element type.
_LOWEST = {"uint8": 0, "int8": -128}


@dataclass(frozen=True)
class LowerInt8:
    """Compute every op between Q/DQ pairs in integers; a module without pairs is left as it is.

    Before: `q = quantize(clip(conv2d(dequantize(x8), dequantize(w8)) + b, 0, 6))`
    After:  `acc = conv2d(x8, w8, out_dtype=int32) + b32`, then `q` from `acc` by one float32
            multiply per value, round, clip (which absorbs the activation), add of the zero point.

    Ops that are not linear (hard-swish, a residual add) run in float32 between the accumulator and
    the next quantize, in the same kernel. A conv2d or matmul that stays in float although its
    weights are int8 stands in the report, with the reason. int8 activations become uint8 by adding
    128 to them and to their zero point, which changes no result. Does not handle: activations with
    a scale per channel, zero points of weights.
    """

    name: ClassVar[str] = "lower-int8"

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """Apply the pass."""
        mod = mod.clone()
        func = g.main_of(mod)
        if not any(integer.is_dequantize(b.value) for b in g.bindings_of(func)):
            return mod, PassReport(name=self.name)
        lowering = _Lowering(mod, func)
        made = lowering.run()
        report = PassReport(
            name=self.name,
            changed=lowering.lowered,
            notes=tuple(lowering.notes),
            skipped=tuple(lowering.skipped),
        )
        return made, report


@dataclass(frozen=True)
class _Joined:
    """A concat of uint8 tensors whose units still differ."""

    parts: tuple[Quantized, ...]
    axis: int

    def to_quantized(self, builder: g.GraphBuilder, params: QParams) -> Quantized:
        parts = [p.to_params(builder, params).expr for p in self.parts]
        return Quantized(builder.emit(relax.op.concat(parts, axis=self.axis)), params)

    def to_float(self, builder: g.GraphBuilder) -> g.Expr:
        parts = [p.to_float(builder) for p in self.parts]
        return builder.emit(relax.op.concat(parts, axis=self.axis))


_State: TypeAlias = "Quantized | Accumulator | Weight | _Joined"


class _Lowering:
    def __init__(self, mod: tvm.IRModule, func: relax.Function) -> None:
        self.func = func
        self.made = g.definitions(func)
        self.readers = g.consumers(func)
        self.builder = g.GraphBuilder(mod)
        self.exprs: dict[relax.Var, g.Expr] = {p: p for p in func.params}
        self.states: dict[relax.Var, _State] = {}
        self.lowered = 0
        self.notes: list[str] = []
        self.skipped: list[Skipped] = []

    def run(self) -> tvm.IRModule:
        for var, value in self.made.items():
            state = self._lower(var, value)
            if state is not None:
                self.states[var] = state
                continue
            self._report_float(var, value)
            self.exprs[var] = self.builder.emit(self._with_inputs(value), var.name)
        return self.builder.finish(self._with_inputs(g.output_of(self.func)))

    def _lower(self, var: relax.Var, value: g.Expr) -> _State | None:
        """The integer form of a binding, or None to keep it."""
        op = g.op_name(value)
        if op == "relax.quantize":
            return self._quantize(value)
        if op == "relax.dequantize":
            return self._dequantize(value)
        if op in ops.ANCHORS:
            return self._anchor(var, value)
        if op in ops.JOINS:
            return self._concat(value)
        if op in ops.POOLS or ops.passes_through(value):
            return self._pool(var, value)
        return self._epilogue(var, value)

    def _quantize(self, call: g.Expr) -> _State | None:
        params = _params_of(call, str(call.attrs.out_dtype))
        if params is None:
            return None
        state = self._state(call.args[0])
        if isinstance(state, Quantized):
            return state.to_params(self.builder, params)
        made = self.made.get(call.args[0])
        if params == PIXELS and made is not None and ops.is_pixels(made):
            return Quantized(self._expr(made.args[0]), params)
        if isinstance(state, _Joined):
            self.lowered += 1
            return state.to_quantized(self.builder, params)
        if isinstance(state, Accumulator) and self._is_only_reader(call.args[0]):
            return state.to_quantized(self.builder, params)
        return integer.quantized(self.builder, self._expr(call.args[0]), params)

    def _dequantize(self, call: g.Expr) -> _State | None:
        values = g.const_array(call.args[0])
        if values is not None:
            return _weight_of(call, values)
        dtype = g.dtype_of(call.args[0])
        params = _params_of(call, dtype)
        if params is None:
            return None
        state = self._state(call.args[0])
        if isinstance(state, Quantized):
            return Quantized(state.expr, params)
        expr = self._expr(call.args[0])
        return Quantized(expr if dtype == "uint8" else self._moved(expr, "uint8"), params)

    def _anchor(self, var: relax.Var, call: g.Expr) -> Accumulator | None:
        data, weight = (self._state(a) for a in call.args[:2])
        if not isinstance(weight, Weight) or not isinstance(data, Quantized):
            return None
        if g.dtype_of(call.args[0]) != "float32" or weight.axis != ops.weight_axis(call):
            return None
        if g.op_name(call) == "relax.matmul":
            made = integer.multiply_matrix(self.builder, data, weight, var.name)
        elif (str(call.attrs.data_layout), str(call.attrs.kernel_layout)) == ("NHWC", "HWIO"):
            made = integer.convolve(self.builder, data, weight, call, var.name)
        else:
            return None
        if isinstance(made, str):
            self.notes.append(f"'{var.name}' stays in float: {made}")
            return None
        self.lowered += 1
        return made

    def _concat(self, call: g.Expr) -> _State | None:
        states = [self._state(o) for o in ops.data_operands(call)]
        parts = tuple(s for s in states if isinstance(s, Quantized))
        if not parts or len(parts) != len(states):
            return None
        if g.dtype_of(call) != "float32":
            return None
        joined = _Joined(parts, int(call.attrs.axis))
        if all(p.params == parts[0].params for p in parts):
            self.lowered += 1
            return joined.to_quantized(self.builder, parts[0].params)
        return joined

    def _pool(self, var: relax.Var, call: g.Expr) -> _State | None:
        data = self._state(call.args[0])
        if not isinstance(data, Quantized) or g.dtype_of(call.args[0]) != "float32":
            return None
        if ops.passes_through(call):
            self.lowered += 1
            made = g.with_args(call, [data.expr, *call.args[1:]])
            return Quantized(self.builder.emit(made, var.name), data.params)
        if ops.pool_obstacle(call):
            return None
        self.lowered += 1
        return integer.average(self.builder, data, call, var.name)

    def _epilogue(self, var: relax.Var, call: g.Expr) -> Accumulator | None:
        """Fold a bias or a relu into the accumulator that only this op reads."""
        source = next((a for a in getattr(call, "args", ()) if isinstance(a, relax.Var)), None)
        state = self._state(source)
        if not isinstance(state, Accumulator) or not self._is_only_reader(source):
            return None
        if bounds := ops.clip_bounds(call):
            return state.clipped(*bounds)
        if g.op_name(call) != "relax.add" or state.is_clipped:
            return None
        const = next((a for a in call.args if g.is_constant(a)), None)
        if const is None or not ops.is_per_channel(const, len(state.bias)):
            return None
        if g.shape_of(call) != g.shape_of(source):
            return None
        bias = g.const_array(const)
        assert bias is not None
        made, exact = state.with_bias(bias.reshape(-1))
        if not exact:
            self.notes.append(f"the bias '{var.name}' is added in float: it would overflow int32")
        return made

    def _report_float(self, var: relax.Var, call: g.Expr) -> None:
        if g.op_name(call) not in ops.ANCHORS:
            return
        if any(isinstance(self._state(a), Weight) for a in call.args):
            reason = "int8 weights, but the data has no uint8 form: computed in float32"
            self.skipped.append(Skipped(g.op_name(call), var.name, reason))

    def _moved(self, expr: g.Expr, dtype: str) -> g.Expr:
        """int8 as uint8, 128 more, or uint8 as int8."""
        move = _LOWEST[dtype] - _LOWEST[g.dtype_of(expr)]
        wide = self.builder.emit(relax.op.astype(expr, "int32"))
        wide = self.builder.emit(relax.op.add(wide, g.constant(np.array(move, np.int32))))
        return self.builder.emit(relax.op.astype(wide, dtype))

    def _state(self, expr: g.Expr) -> _State | None:
        return self.states.get(expr) if isinstance(expr, relax.Var) else None

    def _is_only_reader(self, var: g.Expr) -> bool:
        return len(self.readers[var]) == 1

    def _with_inputs(self, value: g.Expr) -> g.Expr:
        inputs = dict.fromkeys(g.argument_vars(value))
        return g.substitute(value, {v: self._expr(v) for v in inputs})

    def _expr(self, var: g.Expr) -> g.Expr:
        """The expression that stands for `var`, in the dtype that `var` had."""
        if var in self.exprs:
            return self.exprs[var]
        state = self.states[var]
        if isinstance(state, Weight):
            return state.to_float()
        if isinstance(state, Quantized):
            if g.dtype_of(var) == "uint8":
                return state.expr
            if g.dtype_of(var) == "int8":
                return self._moved(state.expr, "int8")
            return state.to_float(self.builder)
        self.exprs[var] = state.to_float(self.builder)
        return self.exprs[var]


def _params_of(call: g.Expr, dtype: str) -> QParams | None:
    """Scale and zero point, as uint8, of a per-tensor quantize or dequantize of `dtype`."""
    scale, zero = g.scalar_of(call.args[1]), g.scalar_of(call.args[2])
    if scale is None or zero is None or dtype not in _LOWEST:
        return None
    return QParams(scale, int(zero) - _LOWEST[dtype])


def _weight_of(call: g.Expr, values: g.Array) -> Weight | None:
    """The symmetric int8 weights that a dequantize of a constant stands for."""
    scales, zeros = g.const_array(call.args[1]), g.const_array(call.args[2])
    if values.dtype != np.int8 or scales is None or zeros is None or zeros.any():
        return None
    scales = scales.reshape(-1).astype(np.float32)
    if scales.size == 1:  # for the whole tensor, as if for each channel: the last axis of HWIO, KN
        return Weight(values, np.repeat(scales, values.shape[-1]), values.ndim - 1)
    axis = int(call.attrs.axis) % values.ndim
    if scales.size != values.shape[axis]:
        return None
    return Weight(values, scales, axis)
