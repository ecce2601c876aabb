"""Multiply-adds and parameters, against hand counts."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from lepton_tvm.ir.cost import macs, macs_by_name, params, weight_bytes
from lepton_tvm.ir.graph import Expr
from tests.support.networks import Net, build


def test_dense_depthwise_and_grouped_convolutions() -> None:
    def make(n: Net, x: Expr) -> Expr:  # x: [1, 6, 6, 8]
        x = n.conv(x, 16, 3, bias=False)
        x = n.conv(x, 16, 3, groups=16, stride=2, bias=False)
        return n.conv(x, 8, 1, groups=4)

    mod = build(make)
    assert macs_by_name(mod) == (
        ("conv2d_0", 36 * 9 * 8 * 16),
        ("conv2d_1", 9 * 9 * 16),
        ("conv2d_2", 9 * 4 * 8),
    )
    assert macs(mod) == sum(count for _, count in macs_by_name(mod))
    assert params(mod) == 9 * 8 * 16 + 9 * 16 + 4 * 8 + 8
    assert weight_bytes(mod) == 4 * params(mod)


def test_transposed_convolution_counts_from_its_input() -> None:
    def make(n: Net, x: Expr) -> Expr:  # NCHW [1, 8, 6, 6]
        return n.op("conv2d_transpose", x, relax.const(n.array(8, 4, 3, 3)), strides=(2, 2))

    assert macs(build(make, (1, 8, 6, 6))) == 36 * 8 * 4 * 9


def test_matrix_products_with_a_batch() -> None:
    def make(n: Net, x: Expr) -> Expr:  # [2, 5, 8]
        y = n.dense(x, 12)
        return n.op("matmul", y, n.op("permute_dims", y, [0, 2, 1]))

    assert macs(build(make, (2, 5, 8))) == 2 * 5 * 8 * 12 + 2 * 5 * 12 * 5


@pytest.mark.parametrize("signed", ["int8", "uint8"])
def test_integer_forms_count_alike_and_weigh_a_byte(signed: str) -> None:
    def make(n: Net, x: Expr) -> Expr:
        kernel = relax.const(np.ones((3, 3, 8, 16), "int8"))
        conv = relax.op.nn.conv2d(
            n.op("astype", x, signed),
            kernel,
            padding=1,
            data_layout="NHWC",
            kernel_layout="HWIO",
            out_dtype="int32",
        )
        return n.emit("conv2d", conv)

    mod = build(make)
    assert macs(mod) == 36 * 9 * 8 * 16
    assert weight_bytes(mod) == 9 * 8 * 16


def test_a_shared_constant_and_scalars() -> None:
    def make(n: Net, x: Expr) -> Expr:
        weight = relax.const(n.array(8, 8))
        x = n.op("multiply", n.op("matmul", x, weight), relax.const(2.0))
        return n.op("matmul", x, weight)

    mod = build(make, (3, 8))
    assert params(mod) == 64
    assert macs(mod) == 2 * 3 * 64
