"""Let the model take a picture as it is: uint8 pixels, normalised inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tvm
from tvm import relax

from lepton_tvm.errors import InputError
from lepton_tvm.ir.graph import (
    Array,
    Expr,
    GraphBuilder,
    argument_vars,
    bindings_of,
    const_array,
    constant,
    consumers,
    definitions,
    dtype_of,
    main_of,
    op_name,
    output_of,
    rewrite,
    shape_of,
    substitute,
    with_attrs,
)
from lepton_tvm.passes.base import PassReport, Skipped
from lepton_tvm.passes.graph.canonicalize.simplify_shapes import moves_only_units, permute_axes
from lepton_tvm.passes.graph.fold_batch_norm import FoldBatchNorm
from lepton_tvm.passes.graph.linear_ops import is_padded, per_channel, scale_inputs, shift_inputs

__all__ = ["FoldPreprocess"]

LAYOUTS = ("NHWC", "NCHW")


@dataclass(frozen=True)
class FoldPreprocess:
    """Make an input uint8 and put `(pixel * scale - mean) / std` inside the model.

    `mean` and `std` are one number or one per channel, in units of `pixel * scale`. `layout` is the
    order of the new input; `input` names it where there are several.
    Before: `conv2d(permute_dims(x: float32 [N,C,H,W]), w)`
    After:  `add(conv2d(astype(pad(x: uint8 [N,H,W,C], mean)), w * scale / std), shift)`
    The factor always goes into the first convolution's weight. The mean goes into its bias when
    it has no padding, or when all channels have the same mean: then the pixels are padded with
    the mean instead of zero, which is exact. Otherwise one subtraction per pixel stays (padding
    zeros are zeros *after* normalisation, so no bias is right at the border), and is reported.
    Does not handle: resizing, cropping, colour order.
    """

    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    scale: float = 1.0
    layout: str = "NHWC"
    input: str | None = None

    name: ClassVar[str] = "fold-preprocess"

    def __post_init__(self) -> None:
        for field in ("mean", "std"):  # lists become tuples, so that equal options are equal
            object.__setattr__(self, field, _numbers(getattr(self, field)))
        if not all(map(math.isfinite, (*_numbers(self.mean), *_numbers(self.std), self.scale))):
            raise InputError("mean, std and scale must be finite numbers")
        if self.scale == 0 or 0.0 in _numbers(self.std):
            raise InputError("std and scale must not be zero: every pixel would be lost")
        if self.layout not in LAYOUTS:
            raise InputError(f"layout is {self.layout!r}; give one of {', '.join(LAYOUTS)}")

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """Apply the pass; `InputError` when the input is not a float picture of these channels."""
        mod = mod.clone()
        param = self._param(mod)
        if dtype_of(param) == "uint8":
            done = Skipped("input", param.name, "it takes uint8 already")
            return mod, PassReport(self.name, 0, skipped=(done,))
        factor, mean = self._constants(param)
        mod = self._with_pixels(mod, param, factor, mean)
        notes: list[str] = []
        mod, changed = rewrite(mod, lambda g, var, call: _fold_factor(g, call))
        if changed:
            notes.append("the factor went into the weight of the first convolution")
        mod, shifted = rewrite(mod, lambda g, var, call: _fold_mean(g, var, call))
        if shifted:
            notes.append("the mean went into the bias of the first convolution")
            mod, _ = FoldBatchNorm()(mod)
        skipped = _left_in_place(mod, param.name)
        return mod, PassReport(self.name, 1 + changed + shifted, tuple(notes), skipped=skipped)

    def _param(self, mod: tvm.IRModule) -> relax.Var:
        params = list(main_of(mod).params)
        names = ", ".join(p.name for p in params)
        if self.input is None and len(params) != 1:
            raise InputError(f"the model has several inputs ({names}); say which with input=")
        for param in params:
            if self.input in (None, param.name):
                return param
        raise InputError(f"the model has no input {self.input!r}; it has: {names}")

    def _constants(self, param: relax.Var) -> tuple[Array, Array]:
        """(factor, mean in pixel units), one each per channel: x = factor * (pixel - mean)."""
        shape = shape_of(param)
        if len(shape) != 4 or not dtype_of(param).startswith("float"):
            raise InputError(
                f"input '{param.name}' is {dtype_of(param)}{list(shape)}; preprocessing can be "
                "folded into a float picture [N,C,H,W] only"
            )
        channels = shape[1]
        means, stds = _numbers(self.mean), _numbers(self.std)
        for field, values in (("mean", means), ("std", stds)):
            if len(values) not in (1, channels):
                raise InputError(
                    f"{field} has {len(values)} values, input '{param.name}' has {channels} "
                    f"channels; give 1 or {channels}"
                )
        mean = np.broadcast_to(np.array(means) / self.scale, (channels,))
        factor = np.broadcast_to(self.scale / np.array(stds), (channels,))
        return factor, mean

    def _with_pixels(
        self, mod: tvm.IRModule, param: relax.Var, factor: Array, mean: Array
    ) -> tvm.IRModule:
        """The module with a uint8 input and the normalisation as plain ops, in NHWC."""
        n, c, h, w = shape_of(param)
        dtype = dtype_of(param)
        shape = (n, h, w, c) if self.layout == "NHWC" else (n, c, h, w)
        pixels = relax.Var(param.name, relax.TensorType(shape, "uint8"))
        func = main_of(mod)
        g = GraphBuilder(mod)
        data: Expr = pixels
        if self.layout == "NCHW":
            data = g.emit(relax.op.permute_dims(data, [0, 2, 3, 1]))
        data = g.emit(relax.op.astype(data, dtype))
        if np.any(mean != 0):
            data = g.emit(relax.op.add(data, constant(_spread_channels(-mean), dtype)))
        if np.any(factor != 1):
            data = g.emit(relax.op.multiply(data, constant(_spread_channels(factor), dtype)))
        env: dict[relax.Var, Expr] = {}
        for binding in bindings_of(func):
            value = binding.value
            if _is_to_nhwc(value, param):
                env[binding.var] = data
                continue
            if param not in env and _reads(value, param):
                env[param] = g.emit(relax.op.permute_dims(data, [0, 3, 1, 2]))
            env[binding.var] = g.emit(substitute(value, env), binding.var.name)
        if param not in env:
            env[param] = data
        params = [pixels if p.same_as(param) else p for p in func.params]
        return g.finish(substitute(output_of(func), env), params)


def _numbers(value: float | Sequence[float]) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, int | float) else tuple(float(v) for v in value)


def _spread_channels(values: Array) -> Array:
    """One value per channel as an NHWC constant; rank 0 when all are the same."""
    same = bool(np.all(values == values[0]))
    return np.asarray(values[0]) if same else values.reshape(1, 1, 1, -1)


def _is_to_nhwc(value: Expr, param: relax.Var) -> bool:
    """True for the permute of `param` to NHWC (a reshape where C or H and W are 1)."""
    if op_name(value) == "relax.permute_dims" and value.args[0].same_as(param):
        return permute_axes(value) == (0, 2, 3, 1)
    if op_name(value) != "relax.reshape" or not value.args[0].same_as(param):
        return False
    n, c, h, w = shape_of(param)
    return shape_of(value) == (n, h, w, c) and moves_only_units((n, c, h, w), (0, 2, 3, 1))


def _reads(value: Expr, param: relax.Var) -> bool:
    return any(v.same_as(param) for v in argument_vars(value))


def _fold_factor(g: GraphBuilder, call: Expr) -> Expr | None:
    """conv2d(pixels * factor, w) -> conv2d(pixels, w * factor)."""
    found = _normalise_before(g, call, "relax.multiply")
    if found is None:
        return None
    data, factor = found
    return scale_inputs(with_attrs(call, [data, call.args[1]]), factor)


def _fold_mean(g: GraphBuilder, var: relax.Var, call: Expr) -> Expr | None:
    """conv2d(pixels - mean, w) -> conv2d(pixels, w) + shift, padded with the mean if at all."""
    found = _normalise_before(g, call, "relax.add")
    if found is None:
        return None
    data, shift = found
    padding = [int(p) for p in call.attrs.padding]
    if is_padded(call):
        if not np.all(shift == shift[0]):
            return None
        data = _pad_pixels(g, data, padding, -float(shift[0]))
        padding = [0, 0, 0, 0]
    conv = with_attrs(call, [data, call.args[1]], padding=padding)
    bias = shift_inputs(conv, shift)
    if bias is None:
        return None
    conv = g.emit(conv, var.name)
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


def _normalise_before(g: GraphBuilder, call: Expr, op: str) -> tuple[Expr, Array] | None:
    """(data, one value per channel) when an NHWC conv2d reads `op(pixels, constant)` alone."""
    if op_name(call) != "relax.nn.conv2d" or call.attrs.data_layout != "NHWC":
        return None
    before = g.single_use(call.args[0])
    if before is None or op_name(before) != op or not _is_pixels(g, before.args[0]):
        return None
    array = const_array(before.args[1])
    channels = shape_of(call.args[0])[3]
    vector = None if array is None else per_channel(array, shape_of(before), 3)
    if vector is None or len(vector) != channels:
        return None
    return before.args[0], vector.astype(np.float64)


def _is_pixels(g: GraphBuilder, data: Expr) -> bool:
    """True for the cast of a uint8 value, also with the mean already subtracted."""
    made = g.value(data)
    if op_name(made) == "relax.add" and const_array(made.args[1]) is not None:
        made = g.value(made.args[0])
    return op_name(made) == "relax.astype" and dtype_of(made.args[0]) == "uint8"


def _left_in_place(mod: tvm.IRModule, name: str) -> tuple[Skipped, ...]:
    """The parts of the normalisation that still run on every pixel, each with its reason."""
    func = main_of(mod)
    made, readers = definitions(func), consumers(func)
    left = []
    for binding in bindings_of(func):
        call = binding.value
        if (
            op_name(call) not in ("relax.add", "relax.multiply")
            or const_array(call.args[1]) is None
        ):
            continue
        source = made.get(call.args[0], call.args[0])
        if op_name(source) == "relax.add":
            source = made.get(source.args[0], source.args[0])
        if op_name(source) != "relax.astype" or dtype_of(source.args[0]) != "uint8":
            continue
        next_ops = [op_name(b.value) for b in readers[binding.var]]
        if len(next_ops) != 1:
            reason = f"the normalised '{name}' is read in {len(next_ops)} places"
        elif next_ops == ["relax.nn.conv2d"]:
            reason = "the means differ between channels and the first convolution pads with zeros"
        else:
            reason = f"'{name}' goes into {next_ops[0]}, not straight into a convolution"
        left.append(Skipped(op_name(call), binding.var.name, reason))
    return tuple(left)
