"""Splits as slices: values that uint8 can pass through, each fused with its own reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import relax

from lepton_tvm.ir import graph as g
from lepton_tvm.passes.base import PassReport

__all__ = ["SplitToSlices"]


@dataclass(frozen=True)
class SplitToSlices:
    """Replace each piece of a split by a slice of what was split.

    Before: `pieces = split(x, 2, axis=3); a = pieces[0]; b = pieces[1]`
    After:  `a = strided_slice(x, [3], [0], [c / 2]); b = strided_slice(x, [3], [c / 2], [c])`
    Does not handle: a split whose tuple the model returns (it stays).
    """

    name: ClassVar[str] = "split-to-slices"

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """Apply the pass."""
        mod = mod.clone()
        made, changed = g.rewrite(mod, _visit)
        return (made, PassReport(self.name, changed)) if changed else (mod, PassReport(self.name))


def _visit(builder: g.GraphBuilder, var: relax.Var, value: g.Expr) -> g.Expr | None:
    if not isinstance(value, relax.TupleGetItem):
        return None
    split = builder.value(value.tuple_value)
    if g.op_name(split) != "relax.split":
        return None
    data = split.args[0]
    axis = int(split.attrs.axis) % len(g.shape_of(data))
    pieces = list(split.ty.fields)[: value.index]
    begin = sum(int(piece.shape[axis]) for piece in pieces)
    end = begin + g.shape_of(value)[axis]
    return relax.op.strided_slice(data, [axis], [begin], [end], [1])
