"""NumPy's answers to what the templates compute, and a way to build and run one template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te

from lepton_tvm.compiler.build_cpu import build_kernels
from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.conv2d import ConvShape
from lepton_tvm.kernels.dot import LARGEST_SUM, dot_candidates, uses_maddubs
from lepton_tvm.schedules.base import Choices, Defaults, ScheduleRule
from lepton_tvm.schedules.prefetch import insert_prefetch
from lepton_tvm.targets import ISAS, Target, parse_target
from tests.support import isa_emulator as emulator

Operands = tuple[Array, Array]


def needs(isa: str) -> None:
    """Skip where this machine cannot run code for `isa`, not even by emulating what it lacks."""
    if reason := emulator.prepare(isa):
        pytest.skip(reason)


def conv2d_reference(x: Array, w: Array, shape: ConvShape) -> Array:
    """x NHWC, w HWIO, in float64 (exact for integers of these sizes)."""
    top, left, bottom, right = shape.padding
    padded = np.pad(
        x.astype(np.float64),
        ((0, 0), (top, bottom), (left, right), (0, 0)),
        constant_values=shape.pad_value,
    )
    out = np.zeros((shape.batch, shape.out_height, shape.out_width, shape.out_channels))
    step = shape.group_out
    for group in range(shape.groups):
        ins = slice(group * shape.group_in, (group + 1) * shape.group_in)
        outs = slice(group * step, (group + 1) * step)
        for i, j in np.ndindex(*shape.kernel):
            rows = slice(i * shape.dilation[0], None, shape.strides[0])
            columns = slice(j * shape.dilation[1], None, shape.strides[1])
            window = padded[:, rows, columns, ins][:, : shape.out_height, : shape.out_width]
            out[..., outs] += window @ w[i, j, :, outs].astype(np.float64)
    return out


#: Every way to multiply that a level has, as (level, `dot` of its kernels): 1 is float32.
UNITS = [
    (isa.name, dot) for isa in ISAS.values() for dot in (1, *dot_candidates("int8", 16, isa)[::-1])
]


def largest_weight(isa: str, dot: int) -> int:
    """The magnitude up to which any weights are exact: what 16-bit sums of `dot` bytes leave."""
    return LARGEST_SUM * 2 // dot if uses_maddubs(dot, ISAS[isa]) else 127


def operands(
    rng: np.random.Generator, integer: bool, x: Sequence[int], w: Sequence[int], most: int = 127
) -> Operands:
    """Random activations and weights: float32, or uint8 and int8 of 0..255 and -most..most."""
    if integer:
        activations = rng.integers(0, 256, x).astype("uint8")
        return activations, rng.integers(-most, most + 1, w).astype("int8")
    return rng.standard_normal(x).astype("float32"), rng.standard_normal(w).astype("float32")


def scheduled(
    kernel: Callable[..., te.Tensor],
    rule: ScheduleRule,
    target: Target,
    inputs: Sequence[Array],
    choices: Choices | None = None,
) -> tuple[tvm.tirx.PrimFunc, tuple[int, ...], str]:
    """`kernel` of tensors like `inputs`, scheduled by `rule`; shape and dtype of its result."""
    ins = [te.placeholder(a.shape, str(a.dtype), f"x{i}") for i, a in enumerate(inputs)]
    out = kernel(*ins)
    sch = rule.apply(te.create_prim_func([*ins, out]), target, choices or Defaults())
    assert sch is not None, "the rule did not recognise its own kernel"
    shape = tuple(int(d) for d in out.shape)
    return insert_prefetch(sch.mod["main"]), shape, str(out.dtype).removeprefix("T.")


def run_kernel(
    kernel: Callable[[te.Tensor, te.Tensor], te.Tensor],
    rule: ScheduleRule,
    isa: str,
    x: Array,
    packed: Array,
    choices: Choices | None = None,
) -> Array:
    """Schedule `kernel` by `rule`, build it for `isa`, and run it on `x` and the packed weights."""
    target = parse_target(f"x86:{isa}")
    finished, shape, dtype = scheduled(kernel, rule, target, (x, packed), choices)
    built = build_kernels(tvm.IRModule({"main": finished}), target)
    result: Any = tvm.runtime.empty(shape, dtype)
    built["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(packed), result)
    answer: Array = result.numpy()
    return answer
