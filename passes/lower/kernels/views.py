"""A tensor seen through reshapes, transpositions and splits, as one function of its indices.

A kernel that reads element by element can follow such a chain itself: where a head of an attention
layer lies inside the projection's output needs no copy, only another index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax, te

from lepton_tvm.ir.graph import Expr, op_name, shape_of
from lepton_tvm.ir.ops import named
from lepton_tvm.kernels.indices import unflatten

__all__ = ["View", "view_of"]

# Ops that read the same elements in the same order.
_VIEWS = named("lower", "view")

Indices = list[Any]
_Step = Callable[[Indices], Indices]


@dataclass(frozen=True)
class View:
    """`source` and the steps that turn an index of the view into one of `source`."""

    source: Expr
    steps: tuple[_Step, ...]

    def read(self, tensor: te.Tensor, index: Sequence[Any]) -> Any:
        """The element of the view at `index`, read from `tensor`, which stands for `source`."""
        place = list(index)
        for step in self.steps:
            place = step(place)
        return tensor[tuple(place)]


def view_of(expr: Expr, lookup: Callable[[Expr], Expr | None]) -> View:
    """Follow `expr` back through ops that only move elements; `lookup` gives a variable's value."""
    steps: list[_Step] = []
    while True:
        made = lookup(expr) if isinstance(expr, relax.Var) else None
        found = _step(made, lookup) if made is not None else None
        if found is None:
            return View(expr, tuple(steps))
        expr, step = found
        steps.append(step)


def _step(call: Expr, lookup: Callable[[Expr], Expr | None]) -> tuple[Expr, _Step] | None:
    """The tensor that `call` rearranges and where it reads it, or None where it does not."""
    if isinstance(call, relax.TupleGetItem):
        return _part(call, lookup)
    name = op_name(call)
    if name == "relax.permute_dims":
        source, axes = call.args[0], call.attrs.axes
        rank = len(shape_of(source))
        order = [int(a) for a in axes] if axes is not None else list(range(rank))[::-1]
        return source, lambda index: [index[order.index(axis)] for axis in range(rank)]
    if name in _VIEWS:
        source = call.args[0]
        before, after = shape_of(source), shape_of(call)
        return source, lambda index: _reshaped(index, after, before)
    return None


def _part(item: Expr, lookup: Callable[[Expr], Expr | None]) -> tuple[Expr, _Step] | None:
    """One part of a split."""
    split = lookup(item.tuple_value) if isinstance(item.tuple_value, relax.Var) else None
    if split is None or op_name(split) != "relax.split":
        return None
    axis = int(split.attrs.axis) % len(shape_of(split.args[0]))
    sizes = [shape.values[axis] for shape in (field.shape for field in split.ty.fields)]
    start = sum(int(size) for size in sizes[: int(item.index)])
    return split.args[0], lambda index: [
        i + start if place == axis else i for place, i in enumerate(index)
    ]


def _reshaped(index: Indices, shape: Sequence[int], to: Sequence[int]) -> Indices:
    """The index into `to` of the element that stands at `index` of `shape`.

    Axes are matched in the smallest groups of equal size, so that most indices stay as they are.
    """
    result: Indices = []
    here, there = 0, 0
    while there < len(to) or here < len(shape):
        group, other = [here], [there]
        # an axis of one element may face none; it then stands alone
        if here == len(shape) or (there < len(to) and to[there] == 1 and shape[here] != 1):
            result.append(0)
            there += 1
            continue
        if there == len(to) or (shape[here] == 1 and to[there] != 1):
            here += 1
            continue
        while (a := _size(shape, group)) != (b := _size(to, other)):
            if a < b:
                group.append(group[-1] + 1)
            else:
                other.append(other[-1] + 1)
        flat: Any = 0
        for axis in group:
            flat = flat * shape[axis] + index[axis]
        result.extend(unflatten(flat, [to[axis] for axis in other]))
        here, there = group[-1] + 1, other[-1] + 1
    return result


def _size(shape: Sequence[int], axes: Sequence[int]) -> int:
    return math.prod(shape[axis] for axis in axes)
