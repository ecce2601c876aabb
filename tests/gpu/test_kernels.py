"""Every template for GPUs against NumPy: integers exact, floats to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.gpu import cases
from tests.gpu.cases import Conv, Outcome

ODD = Conv((2, 5, 7, 13), 19, strides=(2, 1), padding=(1, 0, 0, 2))
WHOLE = Conv((1, 14, 14, 32), 96)
POINT = Conv((1, 9, 9, 20), 70, (1, 1), padding=(0, 0, 0, 0))
FIRST = Conv((1, 17, 17, 3), 16, strides=(2, 2), dilation=(2, 2), padding=(2, 2, 2, 2))
SHAPES = pytest.mark.parametrize(
    "case", [ODD, WHOLE, POINT, FIRST], ids=["odd", "whole", "1x1", "first"]
)


def check(outcome: Outcome, rule: str) -> None:
    assert outcome.rule == rule
    assert outcome.got.shape == outcome.want.shape
    if outcome.got.dtype == np.int32:
        np.testing.assert_array_equal(outcome.got, outcome.want)
    else:
        # float32 sums of up to 600 products of normal values, in any order
        np.testing.assert_allclose(outcome.got, outcome.want, rtol=1e-5, atol=2e-4)


@SHAPES
@pytest.mark.parametrize("kind", ["uint8", "bfloat16"])
def test_tensor_cores(kernels: Any, case: Conv, kind: str) -> None:
    check(kernels(cases.convolution, case, kind, "cuda:sm_80"), "cuda.tensor_product")


@SHAPES
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_threads_with_dp4a_or_fma(kernels: Any, case: Conv, kind: str) -> None:
    check(kernels(cases.convolution, case, kind, "cuda:sm_61"), "cuda.thread_product")


@pytest.mark.parametrize(
    ("rows", "columns", "depth"), [(32, 128, 16), (128, 32, 32), (64, 64, 64), (32, 32, 256)]
)
def test_every_tile_of_tensor_cores(kernels: Any, rows: int, columns: int, depth: int) -> None:
    decisions = {"block_rows": rows, "block_columns": columns, "block_depth": depth}
    made = kernels(cases.convolution, WHOLE, "uint8", "cuda:sm_80", decisions)
    check(made, "cuda.tensor_product")


@pytest.mark.parametrize(
    ("kind", "rows", "columns", "depth"),
    [("uint8", 1, 8, 16), ("uint8", 8, 1, 64), ("float32", 2, 8, 32), ("float32", 1, 1, 16)],
)
def test_every_tile_of_threads(
    kernels: Any, kind: str, rows: int, columns: int, depth: int
) -> None:
    decisions = {"thread_rows": rows, "thread_columns": columns, "block_depth": depth}
    made = kernels(cases.convolution, WHOLE, kind, "cuda:sm_61", decisions)
    check(made, "cuda.thread_product")


@pytest.mark.parametrize("kind", ["uint8", "float32", "bfloat16"])
@pytest.mark.parametrize(
    "case",
    [
        Conv((1, 9, 11, 24), 24, strides=(2, 2), groups=24),
        Conv((2, 6, 5, 12), 18, (1, 3), padding=(0, 1, 0, 1), groups=3),
    ],
    ids=["depthwise", "grouped"],
)
def test_few_channels_in_a_group(kernels: Any, case: Conv, kind: str) -> None:
    check(kernels(cases.convolution, case, kind, "cuda:sm_80"), "cuda.reduction")


def test_a_single_row_is_shared_by_the_threads_of_a_block(kernels: Any) -> None:
    case = Conv((1, 1, 1, 333), 45, (1, 1), padding=(0, 0, 0, 0))
    check(kernels(cases.convolution, case, "uint8", "cuda:sm_80"), "cuda.reduction")


@pytest.mark.parametrize("shape", [((3,), 17, 21, 33), ((2, 3), 64, 32, 64)])
def test_attention(kernels: Any, shape: tuple[tuple[int, ...], int, int, int]) -> None:
    check(kernels(cases.attention, *shape), "cuda.thread_product")


@pytest.mark.parametrize(
    ("name", "shape", "axes"),
    [
        ("sum", (1, 17, 13, 40), (1, 2)),
        ("sum", (5, 333), (1,)),
        ("sum", (7, 9), (0, 1)),
        ("max", (300, 6), (1,)),
        ("square_sum", (3, 1000), (1,)),
        ("softmax", (6, 77), (1,)),
        ("softmax", (3, 10, 5), (1,)),
    ],
)
def test_reductions(kernels: Any, name: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    check(kernels(cases.reduction, name, shape, axes), "cuda.reduction")


@pytest.mark.parametrize(
    ("name", "shape"), [("transpose", (5, 67)), ("concat", (3, 4, 9)), ("gelu", (1000,))]
)
def test_elementwise(kernels: Any, name: str, shape: tuple[int, ...]) -> None:
    check(kernels(cases.elementwise, name, shape), "cuda.elementwise")
