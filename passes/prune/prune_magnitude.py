"""Magnitude pruning: the smallest weights become zero, shapes stay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tvm

from lepton_tvm.errors import InputError
from lepton_tvm.ir.cost import MACS_OPS
from lepton_tvm.ir.graph import (
    Array,
    Expr,
    GraphBuilder,
    bindings_of,
    const_array,
    constant,
    is_constant,
    main_of,
    op_name,
    rewrite,
    shape_of,
    with_args,
)
from lepton_tvm.passes.base import PassReport, Skipped

__all__ = ["NO_SPEED_NOTE", "PruneMagnitude", "keep_mask"]

NO_SPEED_NOTE = (
    "zeros inside dense kernels are multiplied like any other value: the compiled code is not "
    "faster, only the compressed file is smaller; use method='channels' for speed"
)
_SCOPES = ("global", "layer")


@dataclass(frozen=True)
class PruneMagnitude:
    """Set the weights of least absolute value to zero in convolutions and matrix products.

    Before: kernel [0.30, -0.02, 0.11, 0.04]
    After:  kernel [0.30,  0.00, 0.11, 0.00]                        (threshold=0.1, or sparsity=0.5)

    Give one of `threshold` (every |w| below it goes) or `sparsity`, the fraction in (0, 1) of zeros
    to reach: exactly `floor(sparsity * n + 0.5)` of the n weights of the model (`scope="global"`)
    or of every layer (`"layer"`), where there were not more already; among equal values the
    earlier one goes. `skip`: names of results to leave alone. A kernel shared by two ops counts
    once. Does not handle: weights that are not float constants (reported), NaN or inf (refused).
    Source: Han et al. 2015.
    """

    name: ClassVar[str] = "prune-magnitude"

    threshold: float | None = None
    sparsity: float | None = None
    scope: str = "global"
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.sparsity is None):
            raise InputError("give exactly one of threshold= and sparsity=")
        if self.threshold is not None and not 0 < self.threshold < math.inf:
            raise InputError(f"threshold is {self.threshold}, but must be a positive number")
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise InputError(f"sparsity is {self.sparsity}, but must be between 0 and 1")
        if self.scope not in _SCOPES:
            raise InputError(f"unknown pruning scope '{self.scope}'; known: {', '.join(_SCOPES)}")

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """The sparse module, and zeros per layer."""
        found, skipped = _find(mod, self.skip)
        arrays = {kernel: array for kernel, (_, array) in found.items()}
        masks = self._masks(arrays)
        pruned = {
            kernel: constant(np.where(masks[kernel], array, np.zeros_like(array)))
            for kernel, array in arrays.items()
            if (array[~masks[kernel]] != 0).any()
        }

        def visit(_: GraphBuilder, var: Expr, value: Expr) -> Expr | None:
            if op_name(value) not in MACS_OPS or var.name in self.skip:
                return None
            args = [pruned.get(a, a) if is_constant(a) else a for a in value.args]
            if all(a.same_as(b) for a, b in zip(args, value.args, strict=True)):
                return None
            return with_args(value, args)

        made, changed = rewrite(mod, visit)
        notes = [_layer_note(n, a, masks[k]) for k, (n, a) in found.items()]
        total = sum(a.size for a in arrays.values())
        before = sum(int((a == 0).sum()) for a in arrays.values())
        after = sum(int(((a == 0) | ~masks[k]).sum()) for k, a in arrays.items())
        numbers = (
            ("weights", total),
            ("zeros_before", before),
            ("zeros_after", after),
            ("sparsity", after / total if total else 0.0),
        )
        notes.append(NO_SPEED_NOTE)
        return made, PassReport(self.name, changed, tuple(notes), numbers, tuple(skipped))

    def _masks(self, arrays: dict[Expr, Array]) -> dict[Expr, Array]:
        if self.threshold is not None:
            return {k: np.abs(a) >= self.threshold for k, a in arrays.items()}
        sparsity = float(self.sparsity or 0)
        if self.scope == "layer":
            return {k: keep_mask(a, sparsity) for k, a in arrays.items()}
        if not arrays:
            return {}
        flat = keep_mask(np.concatenate([a.ravel() for a in arrays.values()]), sparsity)
        ends = np.cumsum([a.size for a in arrays.values()])
        parts = np.split(flat, ends[:-1])
        return {k: p.reshape(a.shape) for (k, a), p in zip(arrays.items(), parts, strict=True)}


def keep_mask(values: Array, sparsity: float) -> Array:
    """Booleans of the shape of `values`: False for the `floor(sparsity * n + 0.5)` smallest |v|."""
    size = np.abs(values).ravel()
    count = math.floor(sparsity * size.size + 0.5)
    keep = np.ones(size.size, dtype=bool)
    if count:
        limit = np.partition(size, count - 1)[count - 1]
        keep[size < limit] = False
        ties = np.flatnonzero(size == limit)
        keep[ties[: count - int((~keep).sum())]] = False
    return keep.reshape(values.shape)


def _find(
    mod: tvm.IRModule, skip: tuple[str, ...]
) -> tuple[dict[Expr, tuple[str, Array]], list[Skipped]]:
    """Prunable kernels (constant -> names of its readers and array), and what is left alone."""
    found: dict[Expr, tuple[str, Array]] = {}
    skipped = []
    for binding in bindings_of(main_of(mod)):
        op, name = op_name(binding.value), binding.var.name
        if op not in MACS_OPS:
            continue
        weights = [a for a in binding.value.args[:2] if is_constant(a)]
        if name in skip:
            skipped.append(Skipped(op, name, "named in skip"))
        elif not weights:
            skipped.append(Skipped(op, name, "has no constant weight: both inputs are computed"))
        for weight in weights if name not in skip else []:
            array = const_array(weight)
            if array is None or not np.issubdtype(array.dtype, np.floating):
                skipped.append(Skipped(op, name, f"its weight is {weight.ty.dtype}, not float"))
                continue
            bad = int((~np.isfinite(array)).sum())
            if bad:
                raise InputError(
                    f"cannot prune '{name}' ({op}): {bad} of the {array.size} values of its weight "
                    f"{list(shape_of(weight))} are NaN or inf; mend the model first"
                )
            names = f"{found[weight][0]}, {name}" if weight in found else name
            found[weight] = (names, array)
    return found, skipped


def _layer_note(name: str, array: Array, keep: Array) -> str:
    zeros = int(((array == 0) | ~keep).sum())
    note = f"{name}: {zeros} of {array.size} weights are zero ({zeros / array.size:.1%})"
    return f"{note}; the layer now gives only its bias" if zeros == array.size else note
