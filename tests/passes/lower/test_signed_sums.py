"""Kernels for signed factors: the constant that their sums lack, added once, whatever the op."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from lepton_tvm.ir.graph import Array, bindings_of, main_of, op_name
from lepton_tvm.kernels.conv2d import ConvShape
from lepton_tvm.passes.lower.kernels.lower_kernels import LowerKernels
from lepton_tvm.passes.lower.kernels.signed_sums import correction
from lepton_tvm.targets import parse_target
from tests.support.kernels import conv2d_reference

RNG = np.random.default_rng(0)


def module(x: tuple[int, ...], weight: Array, bias: Array | None, **attrs: Any) -> tvm.IRModule:
    """uint8 `x` times int8 `weight` (a convolution where `attrs` are given), plus an int32 bias."""
    builder = relax.BlockBuilder()
    data = relax.Var("x", relax.TensorType(x, "uint8"))
    with builder.function("main", [data]):
        with builder.dataflow():
            w = relax.const(weight)
            sums: Any = (
                relax.op.nn.conv2d(
                    data, w, data_layout="NHWC", kernel_layout="HWIO", out_dtype="int32", **attrs
                )
                if weight.ndim == 4
                else relax.op.matmul(data, w, out_dtype="int32")
            )
            out = builder.emit(sums)
            if bias is not None:
                out = builder.emit(relax.op.add(out, relax.const(bias)))
            out = builder.emit_output(out)
        builder.emit_func_output(out)
    return builder.get()


def answer(mod: tvm.IRModule, x: Array) -> Array:
    """What TVM's default schedules make of it."""
    machine = relax.VirtualMachine(tvm.compile(mod, tvm.target.Target("llvm")), tvm.cpu())
    made: Array = machine["main"](tvm.runtime.tensor(x)).numpy()
    return made


def product(x: Array, weight: Array, attrs: dict[str, Any]) -> Array:
    """NumPy's sums of products."""
    if weight.ndim == 2:
        sums: Array = x.astype("int64") @ weight.astype("int64")
        return sums
    (n, h, w, c), (kh, kw, _, k) = x.shape, weight.shape
    shape = ConvShape(
        n, h, w, c, k, (kh, kw), attrs.get("strides", (1, 1)),
        attrs.get("padding", (0, 0, 0, 0)), (1, 1), attrs.get("groups", 1), dot=1, rows=1, block=1,
    )  # fmt: skip
    return conv2d_reference(x, weight, shape).astype("int64")


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "dense": ((3, 19), (19, 8), {}),
    "plain": ((1, 5, 6, 8), (3, 3, 8, 12), {"padding": (1, 1, 1, 1)}),
    "grouped": ((1, 5, 6, 8), (3, 3, 2, 16), {"groups": 4}),
    "depthwise": ((1, 6, 7, 8), (3, 3, 1, 8), {"groups": 8, "strides": (2, 2)}),
}


@pytest.mark.parametrize("least", [-127, -128], ids=["ours", "with -128"])
@pytest.mark.parametrize("level", ["neon", "dotprod", "i8mm"])
@pytest.mark.parametrize("case", list(CASES))
def test_sums_are_those_of_the_unsigned_factors(case: str, level: str, least: int) -> None:
    shape, weights, attrs = CASES[case]
    weight = RNG.integers(least, 128, weights).astype("int8")
    if least == -128:
        weight[...] = -128  # neighbours: byte sums would leave 16 bits with smull
    bias = RNG.integers(-(2**30), 2**30, weights[-1]).astype("int32")
    x = RNG.integers(0, 256, shape).astype("uint8")
    mod = module(shape, weight, bias, **attrs)
    lowered, report = LowerKernels(parse_target(f"arm:{level}"))(mod)
    additions = [b for b in bindings_of(main_of(lowered)) if op_name(b.value) == "relax.add"]
    assert len(additions) == 1
    assert bool(report.notes) == (level == "neon" and least == -128)
    np.testing.assert_array_equal(answer(lowered, x), product(x, weight, attrs) + bias)


def test_without_a_bias_the_constant_stands_alone() -> None:
    weight = RNG.integers(-127, 128, (19, 8)).astype("int8")
    lowered, _ = LowerKernels(parse_target("arm:dotprod"))(module((3, 19), weight, None))
    x = RNG.integers(0, 256, (3, 19)).astype("uint8")
    want = x.astype("int32") @ weight.astype("int32")
    np.testing.assert_array_equal(answer(lowered, x), want)
    np.testing.assert_array_equal(correction(weight, 128), 128 * weight.astype(int).sum(0))
