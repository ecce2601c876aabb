"""Rebuild a function without some of its channels: constants sliced, shapes inferred anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

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
    main_of,
    op_name,
    output_of,
    shape_of,
    substitute,
    with_args,
    with_attrs,
)
from lepton_tvm.passes.prune.channels.carry import ints
from lepton_tvm.passes.prune.channels.labels import Axis, Flow, Ints, Labels

__all__ = ["Arrays", "kernels", "shrink"]

Arrays: TypeAlias = Mapping[Expr, Array]
"""Variable of a convolution or dense call -> an array that belongs to it."""


def kernels(mod: tvm.IRModule, flow: Flow) -> dict[Expr, Array]:
    """The kernel of every weight of `flow`, by the variable of its call."""
    wanted = {w.var for w in flow.weights}
    made = ((b.var, b.value) for b in bindings_of(main_of(mod)) if b.var in wanted)
    arrays = ((var, const_array(value.args[1])) for var, value in made)
    return {var: array for var, array in arrays if array is not None}


def shrink(
    mod: tvm.IRModule,
    flow: Flow,
    removed: Ints,
    *,
    replaced: Arrays | None = None,
    offsets: Arrays | None = None,
) -> tvm.IRModule:
    """`mod` without the `removed` atoms (representatives) of `flow`; `mod` itself is untouched.

    `replaced` gives other kernels (in the old shape) and `offsets` a vector per output channel (old
    width) to add to the result of a convolution or dense layer, into its bias where it has one;
    both by the variable of the call.
    """
    func = main_of(mod)
    cut = _Cut(flow, removed, _all_replaced(mod, replaced or {}, offsets or {}))
    loose = {v: a for v, a in (offsets or {}).items() if _bias(mod, v) is None}
    builder = GraphBuilder(mod)
    env: dict[Expr, Expr] = {}
    for binding in bindings_of(func):
        value = cut.value(binding.var, binding.value, substitute(binding.value, env))
        env[binding.var] = builder.emit(value, binding.var.name)
        if binding.var in loose:
            shift = cut.vector(binding.var, loose[binding.var])
            env[binding.var] = builder.emit(relax.op.add(env[binding.var], shift))
    return builder.finish(substitute(output_of(func), env))


def _bias(mod: tvm.IRModule, var: Expr) -> tuple[Expr, int] | None:
    """(variable, argument index) of the bias that is added to `var`, and to nothing else."""
    readers = consumers(main_of(mod))[var]
    if len(readers) != 1 or op_name(readers[0].value) != "relax.add":
        return None
    width = shape_of(var)[-1]
    for index, arg in enumerate(readers[0].value.args):
        array = const_array(arg)
        if array is not None and array.size == width == array.shape[-1]:
            return readers[0].var, index
    return None


def _all_replaced(
    mod: tvm.IRModule, replaced: Arrays, offsets: Arrays
) -> dict[tuple[Expr, int], Array]:
    """New constants by (variable, argument index): kernels, and biases with their offset."""
    values = {b.var: b.value for b in bindings_of(main_of(mod))}
    found = {(var, 1): array for var, array in replaced.items()}
    for var, offset in offsets.items():
        bias = _bias(mod, var)
        array = None if bias is None else const_array(values[bias[0]].args[bias[1]])
        if bias is not None and array is not None:
            found[bias] = array + offset.reshape(array.shape).astype(array.dtype)
    return found


class _Cut:
    """How one binding looks after the cut."""

    def __init__(
        self, flow: Flow, removed: Ints, replaced: Mapping[tuple[Expr, int], Array]
    ) -> None:
        self._flow, self._removed, self._replaced = flow, removed, replaced
        self._depthwise = {w.var for w in flow.weights if w.depthwise}

    def value(self, var: Expr, old: Expr, value: Expr) -> Expr:
        """`value` (which reads the new variables) with its constants and options cut to size."""
        if not isinstance(value, tvm.ir.Call):
            return value
        name = op_name(value)
        if name in ("relax.reshape", "relax.squeeze"):
            return self._reshape(var, old, value)
        if name == "relax.split":
            return self._split(var, value)
        if name == "relax.strided_slice":
            return self._slice(var, old, value)
        args = [self._constant(var, i, a) for i, a in enumerate(value.args)]
        if var in self._depthwise:  # as many groups as the input has channels left
            return with_attrs(value, args, groups=self._groups(var, old))
        if all(a is b for a, b in zip(args, value.args, strict=True)):
            return value
        return with_args(value, args)

    def vector(self, var: Expr, array: Array) -> Expr:
        """A constant to add to `var`: one float32 per output channel that is left."""
        labels: Any = self._flow.values[var]
        channel = next(i for i, axis in enumerate(labels) if axis is not None)
        shape = [-1 if i == channel else 1 for i in range(len(labels))]
        return constant(self._cut(array, (labels[channel],)).reshape(shape), "float32")

    def _kept(self, axis: Ints) -> Ints:
        """Positions of `axis` that stay."""
        return np.flatnonzero(~np.isin(self._flow.atoms.roots(axis), self._removed))

    def _size(self, axis: Axis, size: int = 0) -> int:
        return size if axis is None else int(self._kept(axis).size)

    def _cut(self, array: Array, labels: Labels) -> Array:
        for position, axis in enumerate(labels):
            if axis is not None:
                array = np.take(array, self._kept(axis), axis=position)
        return array

    def _constant(self, var: Expr, index: int, arg: Expr) -> Expr:
        labels = self._flow.constants.get((var, index))
        array = None if labels is None else const_array(arg)
        if labels is None or array is None:
            return arg
        made = self._cut(self._replaced.get((var, index), array), labels)
        if (var, index) not in self._replaced and made.shape == array.shape:
            return arg
        return constant(made, str(array.dtype))

    def _groups(self, var: Expr, old: Expr) -> int:
        made: Any = next(w.read for w in self._flow.weights if w.var.same_as(var))
        groups = int(old.attrs.groups)
        return groups if made is None else groups * self._size(made) // len(made)

    def _reshape(self, var: Expr, old: Expr, value: Expr) -> Expr:
        labels: Any = self._flow.values[var]
        new = [self._size(a, s) for a, s in zip(labels, shape_of(var), strict=True)]
        if tuple(new) == shape_of(var):
            return value
        if op_name(value) == "relax.reshape":
            return relax.op.reshape(value.args[0], new)
        # squeeze: name the axes, so that a width that became 1 is not swallowed
        before = shape_of(old.args[0])
        named = old.attrs.axis
        axes = [i for i, s in enumerate(before) if s == 1] if named is None else list(ints(named))
        return relax.op.squeeze(value.args[0], axes)

    def _split(self, var: Expr, value: Expr) -> Expr:
        labels: Any = self._flow.values[var]
        axis = int(value.attrs.axis) % len(labels[0])
        if any(part[axis] is None for part in labels):
            return value
        ends = np.cumsum([self._size(part[axis]) for part in labels])
        return relax.op.split(value.args[0], ends[:-1].tolist(), axis=axis)

    def _slice(self, var: Expr, old: Expr, value: Expr) -> Expr:
        before: Any = self._flow.values.get(old.args[0], ())
        after: Any = self._flow.values[var]
        if len(value.args) < 4 or all(axis is None for axis in after):
            return value
        axes, begins, ends = (list(ints(value.args[i])) for i in (1, 2, 3))
        steps = list(ints(value.args[4])) if len(value.args) > 4 else [1] * len(axes)
        for k, axis in enumerate(a % len(after) for a in axes):
            if after[axis] is None:
                continue
            size = len(before[axis])
            start = max(0, begins[k] + size if begins[k] < 0 else begins[k])
            begins[k] = self._size(before[axis][:start])
            ends[k] = begins[k] + self._size(after[axis])
        return relax.op.strided_slice(value.args[0], axes, begins, ends, steps)
