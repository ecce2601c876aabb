"""The values of a graph while its layout changes: each in the old order, the new one, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tvm
from tvm import relax

from lepton_tvm.ir.graph import (
    Expr,
    GraphBuilder,
    const_array,
    constant,
    is_constant,
    shape_of,
    with_args,
)
from lepton_tvm.passes.graph.canonicalize.simplify_shapes import moves_only_units

__all__ = [
    "Layouts",
    "Phases",
    "Tensor",
    "is_tensor",
    "last_axis_of",
    "to_first_axes",
    "to_last_axes",
]


def to_last_axes(rank: int) -> list[int]:
    """The permutation to channels last: [N, C..., H, W] -> [N, H, W, C...], [N, C, L] -> [N, L, C].

    The identity below rank 3.
    """
    spatial = 2 if rank > 3 else 1
    if rank < 3:
        return list(range(rank))
    return [0, *range(rank - spatial, rank), *range(1, rank - spatial)]


def to_first_axes(rank: int) -> list[int]:
    """The inverse of `to_last_axes`."""
    return [to_last_axes(rank).index(a) for a in range(rank)]


def last_axis_of(axis: int, rank: int) -> int:
    """Where channels-first `axis` (may be negative) stands in channels-last order."""
    return to_first_axes(rank)[axis % rank]


def is_tensor(arg: Expr) -> bool:
    """Whether an argument of an op is a tensor: no tuple, shape or number."""
    return isinstance(arg, relax.Var) or is_constant(arg)


@dataclass(frozen=True)
class Phases:
    """A tensor whose pixels still lie in the channels: `spread(data)` is it in NHWC.

    `tile(vector)` turns one value per channel of the spread tensor into one per channel of `data`.
    """

    data: Expr
    spread: Callable[[Expr], Expr]
    tile: Callable[[tvm.ir.Expr], Expr]


class Tensor:
    """One value: `first` is channels first (also any rank below 4), `last` channels last.

    `is_last` stays True for a value that was made channels last, whatever it is converted to.
    """

    def __init__(
        self, first: Expr | None = None, last: Expr | None = None, phases: Phases | None = None
    ) -> None:
        self.first = first
        self.last = last
        self.phases = phases
        self.is_last = first is None


class Layouts:
    """What is known about every variable of the old graph; converts on demand, once each."""

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder
        self._tensors: dict[relax.Var, Tensor] = {}
        self._tuples: dict[relax.Var, list[Tensor]] = {}
        self.name: str | None = None

    def define(self, var: relax.Var, tensor: Tensor) -> None:
        """Say what old `var` has become."""
        self._tensors[var] = tensor

    def define_tuple(self, var: relax.Var, fields: Sequence[Tensor]) -> None:
        """Say what the fields of the tuple `var` have become."""
        self._tuples[var] = list(fields)

    def fields(self, expr: Expr) -> list[Tensor]:
        """The fields of a tuple expression of the old graph."""
        if isinstance(expr, relax.Tuple):
            return [self.tensor(f) for f in expr.fields]
        return self._tuples[expr]

    def tensor(self, expr: Expr) -> Tensor:
        """What an old variable has become; a constant is in the old layout."""
        return Tensor(first=expr) if is_constant(expr) else self._tensors[expr]

    def is_last(self, expr: Expr) -> bool:
        """True for an old variable that was made channels last."""
        return isinstance(expr, relax.Var) and expr in self._tensors and self._tensors[expr].is_last

    def first(self, expr: Expr) -> Expr:
        """The value of an old expression in channels-first order."""
        tensor = self.tensor(expr)
        if tensor.first is None:
            last = self.last(expr)
            tensor.first = self._permute(last, to_first_axes(len(shape_of(last))))
        return tensor.first

    def last(self, expr: Expr, rank: int | None = None) -> Expr:
        """The value in channels-last order; `rank` first widens it with leading unit dims."""
        array = const_array(expr)
        if array is not None:
            wide = array.reshape((1,) * ((rank or array.ndim) - array.ndim) + array.shape)
            return constant(wide.transpose(to_last_axes(wide.ndim)))
        tensor = self.tensor(expr)
        if tensor.last is not None:
            return tensor.last
        if tensor.phases is not None:
            tensor.last = self.emit(tensor.phases.spread(tensor.phases.data), None)
            return tensor.last
        shape = shape_of(tensor.first)
        data = tensor.first
        if rank is not None and len(shape) < rank:
            shape = (1,) * (rank - len(shape)) + shape
            data = self.emit(relax.op.reshape(data, shape), None)
            return self._permute(data, to_last_axes(rank))
        tensor.last = self._permute(data, to_last_axes(len(shape)))
        return tensor.last

    def emit(self, expr: Expr, name: str | None) -> Expr:
        """Bind a new expression."""
        return self._builder.emit(expr, name)

    def made_last(self, expr: Expr) -> Tensor:
        """Bind `expr`, which is channels last, under the name of the old binding."""
        return Tensor(last=self.emit(expr, self.name))

    def value(self, expr: Expr) -> Expr:
        """What a new variable is bound to."""
        return self._builder.value(expr)

    def emit_in_first_layout(self, call: Expr) -> Expr:
        """Bind an op of the old graph unchanged, its arguments brought to the old layout."""
        return self.emit(self._in_first(call), self.name)

    def _in_first(self, expr: Expr) -> Expr:
        if isinstance(expr, relax.Var) and expr in self._tuples:
            return relax.Tuple([self._first_of(t) for t in self._tuples[expr]])
        if isinstance(expr, relax.Var) and expr in self._tensors:
            return self.first(expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._in_first(f) for f in expr.fields])
        if isinstance(expr, tvm.ir.Call) and expr.args:
            args = [self._in_first(a) for a in expr.args]
            return with_args(expr, args)
        return expr

    def _first_of(self, tensor: Tensor) -> Expr:
        if tensor.first is None:
            tensor.first = self._permute(tensor.last, to_first_axes(len(shape_of(tensor.last))))
        return tensor.first

    def _permute(self, data: Expr, axes: Sequence[int]) -> Expr:
        """permute_dims, or a reshape where only unit dims move."""
        shape = shape_of(data)
        moved = [shape[a] for a in axes]
        if list(axes) == list(range(len(axes))):
            return data
        if moves_only_units(shape, axes):
            return self.emit(relax.op.reshape(data, moved), None)
        return self.emit(relax.op.permute_dims(data, list(axes)), None)
