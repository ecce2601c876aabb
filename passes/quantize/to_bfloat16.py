"""From float32 to bfloat16: operands of convolutions and products, and tensors between kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np
import tvm
from tvm import relax

from lepton_tvm.ir import graph as g
from lepton_tvm.ir.ops import named
from lepton_tvm.passes.base import PassReport, Skipped
from lepton_tvm.passes.quantize import ops
from lepton_tvm.passes.quantize.flow import Flow
from lepton_tvm.passes.quantize.schemes import BFLOAT16

__all__ = ["ToBfloat16"]

_PRECISION = BFLOAT16.precision
# Ops with bfloat16 in and out: they move values, or take averages in float32 and round those.
_MOVING = named("bfloat16", "moves")
# Ops of whose kernels a widening cast becomes a part.
_WIDENING = _MOVING | named("bfloat16", "widens")


@dataclass(frozen=True)
class ToBfloat16:
    """Compute conv2d and matmul with constant weights from bfloat16, sums in float32.

    Before: `y = relu(conv2d(x, w) + b)`                                   float32
    After:  `y = relu(conv2d(astype(x, bfloat16), w16) + b)`, the conv2d with out_dtype float32;
            `astype(y, bfloat16)` is what other kernels read, widened by those that compute in
            float32.

    Weights are rounded to nearest even; those of depthwise filters, which are multiplied in
    float32, are kept. A tensor that goes from kernel to kernel is stored in bfloat16 where all of
    its readers can take it; nothing behind the last convolution or product is rounded, nor is an
    output of the model. The report names convolutions and products that stay in float32 and ops
    that make their operands stay. Does not handle: products of two activations, weights beyond the
    range of bfloat16, layouts other than NHWC/HWIO; they stay in float32.
    """

    name: ClassVar[str] = "to-bfloat16"

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """Apply the pass."""
        mod = mod.clone()
        writer = _Writer(mod)
        if not writer.anchors:
            return mod, PassReport(self.name, skipped=tuple(writer.skipped))
        made = writer.write()
        report = PassReport(
            name=self.name,
            changed=len(writer.anchors),
            numbers=(
                ("bfloat16_anchors", len(writer.anchors)),
                ("bfloat16_tensors", len(writer.stored)),
            ),
            skipped=tuple(writer.skipped),
        )
        return made, report


class _Writer:
    def __init__(self, mod: tvm.IRModule) -> None:
        self.func = g.main_of(mod)
        self.made = g.definitions(self.func)
        self.readers = g.consumers(self.func)
        self.builder = g.GraphBuilder(mod)
        self.skipped: list[Skipped] = []
        self.anchors = self._anchors()
        self.stored = self._stored() if self.anchors else set()
        self.plain: dict[relax.Var, g.Expr] = {p: p for p in self.func.params}
        self.narrow: dict[relax.Var, g.Expr] = {}

    def write(self) -> tvm.IRModule:
        for var, value in self.made.items():
            if var in self.anchors:
                self._define(var, self._anchor(value))
            elif var in self.stored and self._moves(value):
                moved = g.substitute(value, {v: self._narrow(v) for v in g.argument_vars(value)})
                self.narrow[var] = self.builder.emit(moved, var.name)
            else:
                self._define(var, g.substitute(value, self._operands(value)))
        return self.builder.finish(g.substitute(g.output_of(self.func), self._outputs()))

    def _define(self, var: relax.Var, value: g.Expr) -> None:
        self.plain[var] = self.builder.emit(value, var.name)

    def _anchor(self, call: g.Expr) -> g.Expr:
        data, weight = self._narrow(call.args[0]), g.const_array(call.args[1])
        assert weight is not None
        if not ops.is_depthwise(call):
            weight = weight.astype(ml_dtypes.bfloat16)
        return g.with_attrs(call, [data, g.constant(weight)], out_dtype=_PRECISION.sums)

    def _moves(self, call: g.Expr) -> bool:
        """Whether a call can move bfloat16: every tensor that it reads is stored so."""
        if g.op_name(call) not in _MOVING or any(map(g.is_constant, ops.data_operands(call))):
            return False
        return all(v in self.stored for v in g.argument_vars(call))

    def _operands(self, value: g.Expr) -> dict[relax.Var, g.Expr]:
        """What stands for the variables in a call that computes in float32.

        Each reader gets its own widening, so that fusion makes it a part of that reader.
        """
        found = {}
        for var in dict.fromkeys(g.argument_vars(value)):
            wide = var in self.stored and not isinstance(value, relax.Tuple | relax.TupleGetItem)
            found[var] = (
                self.builder.emit(relax.op.astype(self._narrow(var), "float32"))
                if wide
                else self._plain(var)
            )
        return found

    def _outputs(self) -> dict[relax.Var, g.Expr]:
        return {v: self._plain(v) for v in g.argument_vars(g.output_of(self.func))}

    def _narrow(self, var: relax.Var) -> g.Expr:
        if var not in self.narrow:
            self.narrow[var] = self.builder.emit(relax.op.astype(self._plain(var), _PRECISION.data))
        return self.narrow[var]

    def _plain(self, var: relax.Var) -> g.Expr:
        if var not in self.plain:
            self.plain[var] = self.builder.emit(relax.op.astype(self.narrow[var], "float32"))
        return self.plain[var]

    def _anchors(self) -> set[relax.Var]:
        found = set()
        for var, call in self.made.items():
            if g.op_name(call) not in ops.ANCHORS:
                continue
            reason = _obstacle(call)
            if reason is None:
                found.add(var)
            else:
                self.skipped.append(Skipped(g.op_name(call), var.name, reason))
        return found

    def _stored(self) -> set[relax.Var]:
        """Float tensors that leave their kernel, on the way to an anchor, to readers that widen."""
        flow = Flow(self.func, ops.ELEMENTWISE)
        before = self._before_anchors()
        found = set()
        told = set()
        for var in self.made:
            if var not in before or getattr(var.ty, "dtype", None) != "float32":
                continue
            if flow.stays_in_kernel(var):
                continue
            strangers = [r for r in self.readers[var] if not self._takes(r, var)]
            if not strangers:
                found.add(var)
            for reader in strangers:
                if reader.var not in told and g.op_name(reader.value) not in ops.ANCHORS:
                    told.add(reader.var)
                    self.skipped.append(_float_reader(reader))
        return found

    def _before_anchors(self) -> set[relax.Var]:
        found: set[relax.Var] = set()
        for var, value in reversed(list(self.made.items())):
            if var in self.anchors or var in found:
                found.update(g.argument_vars(value))
        return found

    def _takes(self, reader: relax.VarBinding, var: relax.Var) -> bool:
        """Whether a binding reads bfloat16, or widens it at no cost; a returned value is plain."""
        if reader.var.same_as(var) or reader.var in self.anchors:
            return True
        return g.op_name(reader.value) in _WIDENING


def _obstacle(call: g.Expr) -> str | None:
    reason = ops.float_obstacle(call)
    if reason is not None:
        return reason
    weight = g.const_array(call.args[1])
    assert weight is not None
    if not np.isfinite(weight.astype(ml_dtypes.bfloat16)).all():
        return "weight has values beyond the range of bfloat16"
    if len(g.shape_of(call.args[0])) < 2:
        return "the data operand is a vector"
    return None


def _float_reader(reader: relax.VarBinding) -> Skipped:
    reason = "computes in float32 from float32 tensors"
    return Skipped(g.op_name(reader.value), reader.var.name, reason)
