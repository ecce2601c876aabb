"""How ops on elements run in channels-last order: they follow their tensors."""

from __future__ import annotations

from tvm import relax

from lepton_tvm.ir.graph import Expr, const_array, shape_of, with_args
from lepton_tvm.passes.graph.layout.layout_tensors import Layouts, Tensor, is_tensor
from lepton_tvm.passes.graph.linear_ops import per_channel

__all__ = ["follow_elementwise"]


def follow_elementwise(layouts: Layouts, call: Expr) -> Tensor | None:
    """Any op on elements: follows when one of its tensors of full rank is channels last."""
    rank = len(shape_of(call))
    tensors = [a for a in call.args if is_tensor(a)]
    if rank < 3 or not any(layouts.is_last(a) and len(shape_of(a)) == rank for a in tensors):
        return None
    in_phases = _elementwise_on_phases(layouts, call, tensors)
    if in_phases is not None:
        return in_phases
    args = [layouts.last(a, rank) if _spreads(a) else a for a in call.args]
    return layouts.made_last(with_args(call, args))


def _elementwise_on_phases(layouts: Layouts, call: Expr, tensors: list[Expr]) -> Tensor | None:
    """An op with per-channel constants runs before the pixels of a transposed conv are spread."""
    data = layouts.tensor(tensors[0]) if isinstance(tensors[0], relax.Var) else None
    if data is None or data.phases is None or data.last is not None:
        return None
    shape = shape_of(call)
    args = []
    for arg in call.args:
        if arg is tensors[0] or arg.same_as(tensors[0]):
            args.append(data.phases.data)
            continue
        array = const_array(arg) if is_tensor(arg) else None
        vector = None if array is None else per_channel(array, shape, 1)
        if _spreads(arg) and vector is None:
            return None
        args.append(data.phases.tile(vector) if _spreads(arg) else arg)
    made = layouts.emit(with_args(call, args), layouts.name)
    return Tensor(phases=type(data.phases)(made, data.phases.spread, data.phases.tile))


def _spreads(arg: Expr) -> bool:
    """True for a tensor whose layout matters: more than one element."""
    return is_tensor(arg) and len(shape_of(arg)) > 0
