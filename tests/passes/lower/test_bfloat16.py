"""bfloat16 convolutions and products of the model's form become kernels, where the target can."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import relax

from lepton_tvm.compiler import pipeline
from lepton_tvm.errors import TargetError
from lepton_tvm.ir.graph import constant
from lepton_tvm.targets import parse_target
from tests.support.graphs import graph, run
from tests.support.kernels import needs


def conv(x: Any, weight: Any, **options: Any) -> Any:
    return relax.op.nn.conv2d(
        relax.op.astype(x, "bfloat16"),
        weight,
        data_layout="NHWC",
        kernel_layout="HWIO",
        out_dtype="float32",
        **options,
    )


def weight(*shape: int, dtype: Any = ml_dtypes.bfloat16) -> Any:
    return constant(np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype))


def network() -> tvm.IRModule:
    def body(x: Any) -> Any:
        y = relax.op.nn.relu(conv(x, weight(3, 3, 3, 24), strides=[2, 2], padding=[0, 0, 1, 1]))
        depthwise = conv(y, weight(3, 3, 1, 24, dtype=np.float32), groups=24, padding=[1, 1, 1, 1])
        flat = relax.op.mean(conv(depthwise, weight(1, 1, 24, 17)), [1, 2])
        flat = relax.op.astype(flat, "bfloat16")
        return relax.op.matmul(flat, weight(17, 5), out_dtype="float32")

    return graph(body, x=(2, 10, 12, 3))


@pytest.mark.parametrize("isa", ["bf16", "amx"])
def test_every_anchor_is_a_bfloat16_kernel(isa: str) -> None:
    lowered = pipeline.lower(network(), parse_target(f"x86:{isa}"))
    heavy = [(k.op, k.precision) for k in lowered.kernels if k.macs]
    assert heavy == [
        ("conv2d", "bfloat16"),
        ("depthwise_conv2d", "bfloat16"),
        ("matmul", "bfloat16"),
        ("matmul", "bfloat16"),
    ]
    assert all(s.rule for s in lowered.schedules)


def test_numbers_are_those_of_the_stock_compiler() -> None:
    needs("bf16")
    x = np.random.default_rng(0).standard_normal((2, 10, 12, 3)).astype(np.float32)
    (got,), (want,) = pipeline.run(network(), [x]), run(network(), x)
    # both round the same tensors; sums in another order may cross a rounding of 2**-8
    assert np.abs(got - want).max() <= 2.0**-8 * np.abs(want).max()


@pytest.mark.parametrize("isa", ["avx2", "vnni"])
def test_a_target_without_bfloat16_is_refused(isa: str) -> None:
    message = rf"x86:{isa} has no instructions: compile for x86:bf16 or x86:amx, or compile the"
    with pytest.raises(TargetError, match=message):
        pipeline.lower(network(), parse_target(f"x86:{isa}"))


def test_an_epilogue_larger_than_the_tile_is_a_loop() -> None:
    """The gate of a squeeze-and-excite block: one sum per channel, thousands of pixels."""

    def body(x: Any) -> Any:
        gate = conv(relax.op.mean(x, [1, 2], keepdims=True), weight(1, 1, 24, 24))
        return relax.op.multiply(x, relax.op.sigmoid(gate))

    lowered = pipeline.lower(graph(body, x=(1, 40, 40, 24)), parse_target("x86:bf16"))
    text = str(lowered.module["matmul_bf16_0"])
    assert "multiply" in text or "sigmoid" in text
    extents = [int(n) for n in re.findall(r"unroll\(T\.int64\((\d+)\)\)", text)]
    assert max(extents) <= 32
