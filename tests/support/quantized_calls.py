"""Quantize/dequantize pairs around single ops, and their lowering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.analysis import well_formed

from lepton_tvm.ir import graph as g
from lepton_tvm.passes.lower.int8.lower_int8 import LowerInt8
from lepton_tvm.passes.quantize.qparams import QParams
from tests.support.quantized_graphs import Array, Net

IN, OUT = QParams(0.02, 100), QParams(0.05, 30)


def q(n: Net, x: Any, params: QParams) -> Any:
    """A quantize/dequantize pair."""
    scale = g.constant(np.array(params.scale, np.float32))
    zero = g.constant(np.array(params.zero_point, np.uint8))
    made = n.op(relax.op.quantize(x, scale, zero, axis=-1, out_dtype="uint8"))
    return n.op(relax.op.dequantize(made, scale, zero, axis=-1, out_dtype="float32"))


def w(n: Net, values: Array, scales: Array, axis: int) -> Any:
    """A dequantize of int8 weights."""
    zeros = g.constant(np.zeros(len(scales), np.int8))
    pair = relax.op.dequantize(
        g.constant(values), g.constant(scales), zeros, axis=axis, out_dtype="float32"
    )
    return n.op(pair)


def weights(shape: Sequence[int], axis: int, seed: int = 1) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    values = rng.integers(-127, 128, shape).astype(np.int8)
    return values, rng.uniform(0.001, 0.01, shape[axis]).astype(np.float32)


def lowered(module: tvm.IRModule, changed: int) -> tvm.IRModule:
    """Lower, and hold the contract of a pass: input untouched, well formed, idempotent."""
    before = module.clone()
    made, report = LowerInt8()(module)
    assert report.changed == changed
    assert report.skipped == ()
    assert g.same_structure(module, before)
    well_formed(made)  # raises where it is not
    assert g.same_structure(LowerInt8()(made)[0], made)
    return made


def quantized_conv(n: Net, x: Any, channels: int = 4, seed: int = 1) -> Any:
    values, scales = weights((1, 1, g.shape_of(x)[3], channels), 3, seed)
    data = q(n, x, IN)
    weight = w(n, values, scales, 3)
    return n.op(relax.op.nn.conv2d(data, weight, data_layout="NHWC", kernel_layout="HWIO"))
