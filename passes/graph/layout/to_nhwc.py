"""Channels last everywhere: NHWC activations, HWIO weights, permutes only where they must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import relax

from lepton_tvm.ir.graph import (
    Expr,
    GraphBuilder,
    bindings_of,
    is_constant,
    main_of,
    op_name,
    output_of,
    shape_of,
)
from lepton_tvm.ir.ops import named
from lepton_tvm.passes.base import PassReport, Refused, Skipped
from lepton_tvm.passes.graph.layout.layout_rules import RULES
from lepton_tvm.passes.graph.layout.layout_tensors import Layouts, Tensor

__all__ = ["ToNHWC"]


@dataclass(frozen=True)
class ToNHWC:
    """Turn convolutions, pools and resizes to NHWC and let that layout flow through the graph.

    Before: `conv2d(x, w, NCHW, OIHW)`, `add(_, const[1,K,1,1])`, `mean(_, axis=[2,3])`
    After:  `conv2d(permute_dims(x), w', NHWC, HWIO)`, `add(_, const[1,1,1,K])`, `mean(_, [1,2])`
    Constants are permuted in NumPy. Elementwise ops, concat, split, slices, pads, reductions and
    softmax follow their input; `permute_dims` remains at inputs, outputs and before ops that need
    NCHW order. A transposed convolution becomes a plain one and a spread of its phases.
    Does not handle: conv3d (left as it is), layouts other than NCHW/OIHW on the way in (kept).
    Run `Canonicalize` before and after it. Report: `permutes` counts those left in the graph.
    """

    name: ClassVar[str] = "to-nhwc"

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """Apply the pass; every op that now runs in NHWC counts as one change."""
        mod = mod.clone()
        func = main_of(mod)
        old = bindings_of(func)
        if not any(_is_spatial_nchw(b.value) for b in old):
            stays = [_skipped(b, why) for b in old if (why := _without_form(b.value))]
            return mod, PassReport(self.name, 0, skipped=tuple(stays))
        builder = GraphBuilder(mod)
        layouts = Layouts(builder)
        for param in func.params:
            layouts.define(param, Tensor(first=param))
        answers = [(binding, _convert(layouts, binding)) for binding in old]
        changed = sum(answer is True for _, answer in answers)
        skipped = [_skipped(b, answer) for b, answer in answers if isinstance(answer, Refused)]
        out = output_of(func)
        if isinstance(out, relax.Tuple):
            result: Expr = relax.Tuple([layouts.first(f) for f in out.fields])
        else:
            result = layouts.first(out)
        made = builder.finish(result)
        permutes = sum(op_name(b.value) == "relax.permute_dims" for b in bindings_of(main_of(made)))
        return made, PassReport(
            self.name, changed, numbers=(("permutes", permutes),), skipped=tuple(skipped)
        )


def _skipped(binding: relax.VarBinding, refused: Refused) -> Skipped:
    return Skipped(op_name(binding.value), binding.var.name, refused.reason)


def _convert(layouts: Layouts, binding: relax.VarBinding) -> bool | Refused:
    """Bind what `binding` computes; whether that is in NHWC now, or why it had to stay."""
    var, value = binding.var, binding.value
    layouts.name = var.name
    if isinstance(value, relax.Tuple):
        layouts.define_tuple(var, [layouts.tensor(f) for f in value.fields])
        return False
    if isinstance(value, relax.TupleGetItem):
        layouts.define(var, layouts.fields(value.tuple_value)[value.index])
        return False
    if isinstance(value, relax.Var) or is_constant(value):
        layouts.define(var, layouts.tensor(value))
        return False
    rule = RULES.get(op_name(value))
    made = _without_form(value) if rule is None else rule(layouts, value)
    if isinstance(made, Tensor):
        layouts.define(var, made)
        return made.first is None
    if isinstance(made, list):
        layouts.define_tuple(var, made)
        return True
    _define_kept(layouts, var, value)
    return made or False


def _define_kept(layouts: Layouts, var: relax.Var, value: Expr) -> None:
    """Bind an op as it was, in the old layout."""
    kept = layouts.emit_in_first_layout(value)
    if isinstance(kept.ty, tvm.ir.TupleType):
        fields = [
            Tensor(first=layouts.emit(relax.TupleGetItem(kept, i), None))
            for i in range(len(kept.ty.fields))
        ]
        layouts.define_tuple(var, fields)
    else:
        layouts.define(var, Tensor(first=kept))


def _without_form(value: Expr) -> Refused | None:
    """Why an op without a rule stays, where it is one of those that would gain."""
    if op_name(value) not in _NO_FORM:
        return None
    rank = len(shape_of(value))
    return Refused(f"{rank}-dimensional data has no channels-last form here")


def _is_spatial_nchw(value: Expr) -> bool:
    attrs = getattr(value, "attrs", None)
    return op_name(value) in _SPATIAL and "NCHW" in (
        getattr(attrs, "data_layout", ""),
        getattr(attrs, "layout", ""),
    )


# Ops that state their layout, and those that have no channels-last form.
_SPATIAL = named("layout", "conv2d", "conv2d_transpose", "pool", "resize")
_NO_FORM = named("layout", "no_form")
