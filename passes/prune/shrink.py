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
    definitions,
    main_of,
    op_name,
    rewrite,
    shape_of,
)
from lepton_tvm.passes.prune.carry import ints
from lepton_tvm.passes.prune.labels import Axis, Flow, Ints, Labels

__all__ = ["Arrays", "kernels", "shrink"]

Arrays: TypeAlias = Mapping[Expr, Array]
"""Variable of a convolution or dense call -> its kernel."""


def kernels(mod: tvm.IRModule, flow: Flow) -> dict[Expr, Array]:
    """The kernel of every weight of `flow`, by the variable of its call."""
    wanted = {w.var for w in flow.weights}
    found = {}
    for binding in bindings_of(main_of(mod)):
        if binding.var in wanted:
            found[binding.var] = const_array(binding.value.args[1])
    return {var: array for var, array in found.items() if array is not None}


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
    width) to add to the result of a convolution or dense layer; both by the variable of the call.
    """
    cut = _Cut(definitions(main_of(mod)), flow, removed, replaced or {}, offsets or {})
    return rewrite(mod, cut)[0]


class _Cut:
    """The visitor of `shrink`."""

    def __init__(
        self,
        old: Mapping[Expr, Expr],
        flow: Flow,
        removed: Ints,
        replaced: Arrays,
        offsets: Arrays,
    ) -> None:
        self._old, self._flow, self._removed = old, flow, removed
        self._replaced, self._offsets = replaced, offsets

    def __call__(self, builder: GraphBuilder, var: Expr, value: Expr) -> Expr | None:
        if not isinstance(value, tvm.ir.Call):
            return None
        name = op_name(value)
        if name in ("relax.reshape", "relax.squeeze"):
            return self._reshape(var, value, name)
        if name == "relax.split":
            return self._split(builder, var, value)
        if name == "relax.strided_slice":
            return self._slice(var, value)
        call = self._constants(var, value)
        if name.startswith("relax.nn.conv") and (var, 1) in self._flow.constants:
            call = self._groups(var, call, name)
        if var not in self._offsets:
            return None if call is value else call
        return self._offset(builder, var, call)

    def _kept(self, axis: Any) -> Any:
        """Positions of `axis` that stay."""
        return np.flatnonzero(~np.isin(self._flow.atoms.roots(axis), self._removed))

    def _size(self, axis: Axis, size: int) -> int:
        return size if axis is None else int(self._kept(axis).size)

    def _slice_array(self, array: Array, labels: Labels) -> Array:
        for position, axis in enumerate(labels):
            if axis is not None:
                array = np.take(array, self._kept(axis), axis=position)
        return array

    def _constants(self, var: Expr, call: Expr) -> Expr:
        args = list(call.args)
        for index, arg in enumerate(args):
            labels = self._flow.constants.get((var, index))
            array = None if labels is None else const_array(arg)
            if labels is None or array is None:
                continue
            new = self._replaced[var] if index == 1 and var in self._replaced else array
            new = self._slice_array(new, labels)
            if new.shape != array.shape or var in self._replaced:
                args[index] = constant(new, str(array.dtype))
        if all(a is b or a.same_as(b) for a, b in zip(args, call.args, strict=True)):
            return call
        return tvm.ir.Call(call.op, args, call.attrs, call.ty_args)

    def _groups(self, var: Expr, call: Expr, name: str) -> Expr:
        """A depthwise convolution has as many groups as its input has channels left."""
        attrs = call.attrs
        depthwise = any(w.depthwise and w.var.same_as(var) for w in self._flow.weights)
        channels = shape_of(call.args[0])[str(attrs.data_layout).index("C")]
        if not depthwise or int(attrs.groups) == channels:
            return call
        make = getattr(relax.op.nn, name.rsplit(".", 1)[1])
        return make(
            call.args[0],
            call.args[1],
            strides=ints(attrs.strides),
            padding=ints(attrs.padding),
            dilation=ints(attrs.dilation),
            groups=channels,
            data_layout=str(attrs.data_layout),
            kernel_layout=str(attrs.kernel_layout),
            out_layout=str(attrs.out_layout),
            out_dtype=str(attrs.out_dtype) if attrs.out_dtype else None,
        )

    def _offset(self, builder: GraphBuilder, var: Expr, call: Expr) -> Expr:
        labels = self._flow.values[var]
        channel = [i for i, axis in enumerate(labels) if axis is not None][-1]
        shape = [1] * len(labels)
        vector = self._slice_array(self._offsets[var], (labels[channel],))  # type: ignore[arg-type]
        shape[channel] = vector.size
        made = builder.emit(call, var.name)
        return relax.op.add(made, constant(vector.reshape(shape).astype("float32")))

    def _reshape(self, var: Expr, call: Expr, name: str) -> Expr | None:
        labels, old = self._flow.values[var], shape_of(var)
        new = [self._size(a, s) for a, s in zip(labels, old, strict=True)]  # type: ignore[arg-type]
        if tuple(new) == old:
            return None
        if name == "relax.reshape":
            return relax.op.reshape(call.args[0], new)
        axes = call.attrs.axis
        if axes is not None:
            return None
        # squeeze of all axes of size 1: name them, so that a width of 1 is not swallowed
        before = shape_of(call.args[0])
        return relax.op.squeeze(call.args[0], [i for i, s in enumerate(before) if s == 1])

    def _split(self, builder: GraphBuilder, var: Expr, call: Expr) -> Expr | None:
        labels: Any = self._flow.values[var]
        axis = int(call.attrs.axis) % len(labels[0])
        if all(part[axis] is None for part in labels):
            return None
        sizes = [self._size(part[axis], 0) for part in labels]
        return relax.op.split(call.args[0], np.cumsum(sizes)[:-1].tolist(), axis=axis)

    def _slice(self, var: Expr, call: Expr) -> Expr | None:
        old = self._old[var]
        before: Any = self._flow.values.get(old.args[0], ())
        after: Any = self._flow.values[var]
        if len(call.args) < 4 or all(axis is None for axis in after):
            return None
        axes, begins, ends = (list(ints(call.args[i])) for i in (1, 2, 3))
        steps = list(ints(call.args[4])) if len(call.args) > 4 else [1] * len(axes)
        for k, axis in enumerate(a % len(after) for a in axes):
            if after[axis] is None:
                continue
            size = len(before[axis])
            start = max(0, begins[k] + size if begins[k] < 0 else begins[k])
            begins[k] = self._size(before[axis][:start], 0)
            ends[k] = begins[k] + self._size(after[axis], 0)
        return relax.op.strided_slice(call.args[0], axes, begins, ends, steps)
