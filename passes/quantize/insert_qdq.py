"""Writing a plan into the graph as quantize/dequantize pairs, the interchange form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import tvm
from tvm import relax

from lepton_tvm.errors import CompileError
from lepton_tvm.ir import graph as g
from lepton_tvm.passes.base import PassReport
from lepton_tvm.passes.quantize import ops
from lepton_tvm.passes.quantize.config import QuantizeConfig
from lepton_tvm.passes.quantize.narrow_sums import narrow_scales
from lepton_tvm.passes.quantize.plan import Plan
from lepton_tvm.passes.quantize.qparams import QParams, quantize_weight, weight_scales

__all__ = ["InsertQDQ"]


@dataclass(frozen=True)
class InsertQDQ:
    """Insert pairs of quantize and dequantize where `plan` says.

    Before: `conv2d(x, w)`
    After:  `conv2d(dequantize(quantize(x, s, zp), s, zp), dequantize(w8, sw, 0, axis=3))`

    Every reader of a quantized tensor reads the pair, except that outputs of the model stay float.
    `params` gives scale and zero point of activations by tensor name.
    `input_means` (anchor name -> mean of its data per input channel [C]) switches on bias
    correction: the shift that rounding the weights gives to the mean of each output channel is
    taken off its bias (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
    Correction", ICCV 2019). `config` says how many bits weights have. Does not handle: modules
    that hold Q/DQ pairs already.
    """

    name: ClassVar[str] = "insert-qdq"
    plan: Plan
    params: Mapping[str, QParams]
    input_means: Mapping[str, g.Array] = field(default_factory=dict)
    config: QuantizeConfig = field(default_factory=QuantizeConfig)

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """Apply the pass."""
        mod = mod.clone()
        missing = [t for t in self.plan.measured if t not in self.params]
        if missing:
            raise CompileError(f"no range for {missing[:5]}; calibrate every tensor of the plan")
        writer = _Writer(mod, self)
        made = writer.write()
        report = PassReport(
            name=self.name,
            changed=len(self.plan.tensors) + len(self.plan.anchors),
            numbers=(
                ("activation_pairs", len(self.plan.tensors)),
                (f"{self.config.scheme.name}_weights", len(self.plan.anchors)),
                ("corrected_biases", writer.corrected),
            ),
            notes=_narrow_note(writer.coarser),
        )
        return made, report


def _narrow_note(coarser: Sequence[g.Array]) -> tuple[str, ...]:
    if not coarser:
        return ()
    steps = np.concatenate(coarser)
    return (
        "weights are scaled so that 16 bits hold the sums that CPUs without VNNI make of byte "
        f"products: their steps are {np.median(steps):.2f} times (median) and at most "
        f"{steps.max():.2f} times those of {len(steps)} unlimited channels",
    )


class _Writer:
    def __init__(self, mod: tvm.IRModule, options: InsertQDQ) -> None:
        self.func = g.main_of(mod)
        self.readers = g.consumers(self.func)
        self.made = g.definitions(self.func)
        self.options = options
        self.tensors = set(options.plan.tensors)
        self.anchors = set(options.plan.anchors)
        self.builder = g.GraphBuilder(mod)
        self.plain: dict[relax.Var, g.Expr] = {}
        self.paired: dict[relax.Var, g.Expr] = {}
        self.new_bias: dict[relax.Var, g.Array] = {}
        self.corrected = 0
        self.coarser: list[g.Array] = []

    def write(self) -> tvm.IRModule:
        for param in self.func.params:
            self._define(param, param)
        for var, value in self.made.items():
            if var.name in self.anchors:
                self._anchor(var, value)
                continue
            source = self.plain if isinstance(value, relax.Tuple | relax.TupleGetItem) else None
            value = g.substitute(value, source or self.paired)
            if var in self.new_bias:
                bias = g.constant(self.new_bias[var])
                value = relax.op.add(next(a for a in value.args if not g.is_constant(a)), bias)
            self._define(var, self.builder.emit(value, var.name))
        return self.builder.finish(g.substitute(g.output_of(self.func), self.plain))

    def _define(self, old: relax.Var, new: g.Expr) -> None:
        self.plain[old] = self.paired[old] = new
        if old.name not in self.tensors:
            return
        params = self.options.params[self.options.plan.params_of(old.name)]
        stored = self.options.config.scheme.precision.data
        scale = g.constant(np.array(params.scale, np.float32))
        zero = g.constant(np.array(params.zero_point, stored))
        q = self.builder.emit(relax.op.quantize(new, scale, zero, axis=-1, out_dtype=stored))
        self.paired[old] = self.builder.emit(
            relax.op.dequantize(q, scale, zero, axis=-1, out_dtype="float32")
        )

    def _anchor(self, var: relax.Var, call: g.Expr) -> None:
        weight = g.const_array(call.args[1])
        assert weight is not None
        axis = ops.weight_axis(call)
        bias_add, bias = self._bias_of(var, weight.shape[axis])
        data_scale = self.options.params[self.options.plan.params_of(call.args[0].name)].scale
        config = self.options.config
        scales = weight_scales(weight, axis, bias, data_scale, config.largest_weight)
        if config.narrow_sums:
            wide = scales
            scales = narrow_scales(weight, call, wide, config.largest_weight)
            self.coarser.append(scales / wide)
        w8 = quantize_weight(weight, scales, axis, config.largest_weight)
        dequantized = self.builder.emit(
            relax.op.dequantize(
                g.constant(w8),
                g.constant(scales),
                g.constant(np.zeros(len(scales), config.scheme.precision.weight)),
                axis=axis,
                out_dtype="float32",
            )
        )
        data = self.paired[call.args[0]]
        made = g.with_args(call, [data, dequantized, *call.args[2:]])
        result = self.builder.emit(made, var.name)
        shift = self._mean_shift(var, call, weight, w8.astype(np.float32) * scales)
        if shift is not None:
            self.corrected += 1
            new_bias = (np.zeros_like(shift) if bias is None else bias) - shift
            if bias_add is None:
                shape = (1,) * (len(g.shape_of(call)) - 1) + (-1,)
                result = self.builder.emit(
                    relax.op.add(result, g.constant(new_bias.reshape(shape)))
                )
            else:
                self.new_bias[bias_add] = new_bias.reshape(g.shape_of(self._constant_of(bias_add)))
        self._define(var, result)

    def _bias_of(
        self, var: relax.Var, channels: int
    ) -> tuple[relax.Var, g.Array] | tuple[None, None]:
        """The binding that adds a constant per channel to `var` and is its only reader."""
        readers = self.readers[var]
        if len(readers) != 1 or g.op_name(readers[0].value) != "relax.add":
            return None, None
        const = self._constant_of(readers[0].var)
        if const is None or not ops.is_per_channel(const, channels):
            return None, None
        array = g.const_array(const)
        assert array is not None
        return readers[0].var, array.reshape(-1)

    def _constant_of(self, var: relax.Var) -> g.Expr:
        return next((a for a in self.made[var].args if g.is_constant(a)), None)

    def _mean_shift(
        self, var: relax.Var, call: g.Expr, weight: g.Array, rounded: g.Array
    ) -> g.Array | None:
        """Mean change [K] of the outputs of an anchor by the rounding of its weights."""
        means = self.options.input_means.get(var.name)
        if means is None:
            return None
        error = (rounded - weight).astype(np.float64)
        if g.op_name(call) != "relax.nn.conv2d":
            return (means.astype(np.float64) @ error).astype(np.float32)
        per_input = error.sum(axis=(0, 1))  # [C / groups, K]
        groups = int(call.attrs.groups)
        by_group = means.astype(np.float64).reshape(groups, -1)
        per_group = per_input.reshape(per_input.shape[0], groups, -1)
        shift: g.Array = np.einsum("gc,cgk->gk", by_group, per_group).reshape(-1)
        return shift.astype(np.float32)
