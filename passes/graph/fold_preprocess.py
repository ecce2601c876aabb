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
    constant,
    dtype_of,
    main_of,
    op_name,
    output_of,
    shape_of,
    substitute,
)
from lepton_tvm.passes.base import PassReport, Skipped
from lepton_tvm.passes.graph.canonicalize.simplify_shapes import moves_only_units, permute_axes
from lepton_tvm.passes.graph.first_convolution import Folds, fold_factor, fold_mean
from lepton_tvm.passes.graph.fold_batch_norm import FoldBatchNorm

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
        folds = Folds(param.name)
        mod, changed = folds.sweep(mod, fold_factor)
        if changed:
            notes.append("the factor went into the weight of the first convolution")
        mod, shifted = folds.sweep(mod, fold_mean)
        if shifted:
            notes.append("the mean went into the bias of the first convolution")
            mod, _ = FoldBatchNorm()(mod)
        count = 1 + changed + shifted
        return mod, PassReport(self.name, count, tuple(notes), skipped=folds.skipped())

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
