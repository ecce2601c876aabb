"""Moving the normalisation of pixels, a factor and a mean, into the first convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import tvm
from tvm import relax

from lepton_tvm.ir.graph import (
    Array,
    Expr,
    GraphBuilder,
    const_array,
    constant,
    consumers,
    dtype_of,
    main_of,
    op_name,
    rewrite,
    shape_of,
    with_attrs,
)
from lepton_tvm.passes.base import Refused, Skipped
from lepton_tvm.passes.graph.linear_ops import is_padded, per_channel, scale_inputs, shift_inputs

__all__ = ["Folds", "fold_factor", "fold_mean"]

_MEANS_DIFFER = Refused(
    "the means differ between channels and the first convolution pads with zeros"
)
_NOT_TAKEN = Refused("the first convolution cannot take a scale and a shift")

_Rule: TypeAlias = "Callable[[GraphBuilder, Expr, str], Expr | Refused | None]"


class Folds:
    """Asks every convolution to take what is computed before it, and keeps what is refused."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._refused: dict[str, Refused] = {}
        self._left: list[tuple[str, relax.Var, list[relax.VarBinding]]] = []
        self._taken: set[relax.Var] = set()

    def sweep(self, mod: tvm.IRModule, rule: _Rule) -> tuple[tvm.IRModule, int]:
        """The module with `rule` applied wherever it can be, and how often that was."""
        readers = consumers(main_of(mod))
        self._left.clear()

        def visit(g: GraphBuilder, var: relax.Var, call: Expr) -> Expr | None:
            if _is_normalisation(g, call):
                self._left.append((op_name(call), var, readers[var]))
            if op_name(call) != "relax.nn.conv2d":
                return None
            answer = rule(g, call, var.name)
            if isinstance(answer, Refused):
                self._refused[var.name] = answer
                return None
            if answer is not None:
                self._taken.add(var)
            return answer

        return rewrite(mod, visit)

    def skipped(self) -> tuple[Skipped, ...]:
        """The parts of the normalisation that still run on every pixel, each with its reason."""
        return tuple(
            Skipped(kind, var.name, self._reason(readers))
            for kind, var, readers in self._left
            if self._taken.isdisjoint(reader.var for reader in readers)
        )

    def _reason(self, readers: list[relax.VarBinding]) -> str:
        if len(readers) != 1:
            return f"the normalised '{self._name}' is read in {len(readers)} places"
        kind = op_name(readers[0].value)
        if kind != "relax.nn.conv2d":
            return f"'{self._name}' goes into {kind}, not straight into a convolution"
        return self._refused.get(readers[0].var.name, _NOT_TAKEN).reason


def fold_factor(g: GraphBuilder, call: Expr, name: str) -> Expr | Refused | None:
    """conv2d(pixels * factor, w) -> conv2d(pixels, w * factor)."""
    found = _normalise_before(g, call, "relax.multiply")
    if found is None or isinstance(found, Refused):
        return found
    data, factor = found
    scaled = scale_inputs(with_attrs(call, [data, call.args[1]]), factor)
    return _NOT_TAKEN if isinstance(scaled, Refused) else scaled


def fold_mean(g: GraphBuilder, call: Expr, name: str) -> Expr | Refused | None:
    """conv2d(pixels - mean, w) -> conv2d(pixels, w) + shift, padded with the mean if at all."""
    found = _normalise_before(g, call, "relax.add")
    if found is None or isinstance(found, Refused):
        return found
    data, shift = found
    padding = [int(p) for p in call.attrs.padding]
    if is_padded(call):
        if not np.all(shift == shift[0]):
            return _MEANS_DIFFER
        data = _pad_pixels(g, data, padding, -float(shift[0]))
        padding = [0, 0, 0, 0]
    conv = with_attrs(call, [data, call.args[1]], padding=padding)
    bias = shift_inputs(conv, shift)
    if isinstance(bias, Refused):
        return _NOT_TAKEN
    conv = g.emit(conv, name)
    return relax.op.add(conv, constant(bias.reshape(1, 1, 1, -1), dtype_of(conv)))


def _pad_pixels(g: GraphBuilder, data: Expr, padding: list[int], value: float) -> Expr:
    """Pad H and W with `value`: as bytes, before the cast, when a byte can hold it."""
    top, left, bottom, right = padding
    widths = [0, 0, top, bottom, left, right, 0, 0]
    cast = g.single_use(data)
    if (
        cast is None
        or op_name(cast) != "relax.astype"
        or value != round(value)
        or not 0 <= value <= 255
    ):
        return g.emit(relax.op.nn.pad(data, widths, pad_value=value))
    padded = g.emit(relax.op.nn.pad(cast.args[0], widths, pad_value=value))
    return g.emit(relax.op.astype(padded, dtype_of(cast)))


def _normalise_before(g: GraphBuilder, call: Expr, op: str) -> tuple[Expr, Array] | Refused | None:
    """(data, one value per channel) when an NHWC conv2d reads `op(pixels, constant)` alone."""
    before = g.single_use(call.args[0])
    if call.attrs.data_layout != "NHWC" or before is None or op_name(before) != op:
        return None
    if not _is_normalisation(g, before):
        return None
    array = const_array(before.args[1])
    vector = None if array is None else per_channel(array, shape_of(before), 3)
    if vector is None or len(vector) != shape_of(call.args[0])[3]:
        return _NOT_TAKEN
    return before.args[0], vector.astype(np.float64)


def _is_normalisation(g: GraphBuilder, call: Expr) -> bool:
    """Whether `call` adds a constant to pixels, or multiplies them by one."""
    kinds = ("relax.add", "relax.multiply")
    if op_name(call) not in kinds or const_array(call.args[1]) is None:
        return False
    return _is_pixels(g, call.args[0])


def _is_pixels(g: GraphBuilder, data: Expr) -> bool:
    """True for the cast of a uint8 value, also with the mean already subtracted."""
    made = g.value(data)
    if op_name(made) == "relax.add" and const_array(made.args[1]) is not None:
        made = g.value(made.args[0])
    return op_name(made) == "relax.astype" and dtype_of(made.args[0]) == "uint8"
