"""Inputs of single kernels: drawn so that wrong arithmetic shows in what they compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx

from lepton_tvm.compiler.fused_kernels import anchor_notes
from lepton_tvm.ir.graph import Array
from lepton_tvm.ir.tir_rewrite import children
from lepton_tvm.measure.timing_inputs import random_inputs
from lepton_tvm.model import TensorInfo

__all__ = ["activations"]

# Sums of int8 products reach this many bits; a sum of a few of them still fits 32.
_SUM_BITS = 22


def activations(func: tirx.PrimFunc, index: int, seed: int) -> Array:
    """Seeded values for one parameter of a kernel.

    Floats are normal and bytes take all values. Integers of 32 bits are words of four bytes, or
    sums of either sign and any size. What a kernel reads positions from, as a lookup does, is 0
    or 1, and so are other integers.
    """
    buffer = func.params[index]
    shape = tuple(int(d) for d in buffer.shape)
    dtype = str(buffer.dtype).removeprefix("T.")
    generator = np.random.default_rng(seed)
    if dtype == "int32" and not _read_in_positions(func, buffer):
        if _words(func):
            return generator.integers(-(1 << 31), 1 << 31, shape).astype(dtype)
        sizes = np.exp2(generator.uniform(0, _SUM_BITS, shape))
        return np.asarray(sizes * generator.choice([-1, 1], shape)).astype(dtype)
    drawn = "float32" if dtype == "bfloat16" else dtype
    (values,) = random_inputs([TensorInfo("x", shape, drawn)], seed).values()
    return values.astype(np.dtype(dtype)) if drawn != dtype else values


def _words(func: tirx.PrimFunc) -> bool:
    """Whether the kernel multiplies words of four bytes."""
    found = anchor_notes(func)
    return found is not None and found.operand.endswith("x4")


def _read_in_positions(func: tirx.PrimFunc, buffer: Any) -> bool:
    """Whether values of `buffer` decide from where something else is read."""
    found = False

    def look(load: Any) -> None:
        nonlocal found
        found = found or any(_reads(position, buffer) for position in load.indices)

    tvm_ffi.structural_walk(func.body, (tvm.ir.TensorLoad, look))
    return found


def _reads(expr: Any, buffer: Any) -> bool:
    if isinstance(expr, tvm.ir.TensorLoad) and expr.source.same_as(buffer):
        return True
    return any(_reads(operand, buffer) for operand in children(expr))
