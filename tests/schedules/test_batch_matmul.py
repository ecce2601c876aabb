"""Products of two activations against NumPy: odd sequence lengths, broadcasting, stored orders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton_tvm.kernels.batch_matmul import BatchMatmulShape, batch_matmul
from lepton_tvm.kernels.register_tile import choose_tile
from lepton_tvm.schedules.x86 import BATCH_MATMUL
from lepton_tvm.targets import ISAS, best_isa
from tests.support.answers import Answer
from tests.support.kernels import needs, operands, run_kernel

# batch, rows, depth, columns
PRODUCTS = [
    ((1,), 4, 3, 5),
    ((1, 3), 197, 64, 197),
    ((2, 2), 49, 32, 49),
    ((12,), 50, 50, 32),
    ((2,), 7, 130, 100),
]


def answer(
    batch: tuple[int, ...],
    rows: int,
    depth: int,
    columns: int,
    isa: str,
    axes: tuple[int, ...],
    choices: Any = None,
) -> tuple[Any, Any]:
    tile = choose_tile(rows, columns, ISAS[isa])
    shape = BatchMatmulShape(batch, rows, depth, columns, tile.rows, tile.channels, axes)
    # the second operand is stored transposed, as the keys of an attention layer are
    x, y = operands(
        np.random.default_rng(rows), False, (*batch, rows, depth), (*batch, columns, depth)
    )
    got = run_kernel(
        lambda a, b: batch_matmul(
            a, b, shape, tile,
            lambda t, i: t[tuple(i)],
            lambda t, i: t[(*i[:-2], i[-1], i[-2])],
        ),
        BATCH_MATMUL, isa, x, y, choices,
    )  # fmt: skip
    want = x.astype(np.float64) @ y.astype(np.float64).swapaxes(-1, -2)
    return got, want.transpose(axes)


@pytest.mark.parametrize("isa", list(ISAS))
@pytest.mark.parametrize(("batch", "rows", "depth", "columns"), PRODUCTS)
def test_product_equals_numpy(
    batch: tuple[int, ...], rows: int, depth: int, columns: int, isa: str
) -> None:
    needs(isa)
    axes = tuple(range(len(batch) + 2))
    got, want = answer(batch, rows, depth, columns, isa, axes)
    np.testing.assert_allclose(got, want, rtol=0, atol=depth * 16 * 2.0**-24 + 1e-6)


def test_heads_are_stored_beside_each_other() -> None:
    got, want = answer((2, 3), 17, 20, 24, best_isa().name, (0, 2, 1, 3))
    assert got.shape == (2, 17, 3, 24)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def test_every_choice_computes_the_same() -> None:
    case = ((1, 3), 45, 40, 33, best_isa().name, (0, 1, 2, 3))
    first = Answer()
    answer(*case, first)
    assert set(first.asked) == {"pack_per_matrix", "column_blocks_outermost", "unroll_epilogue"}
    for name, (candidates, _) in first.asked.items():
        for value in candidates:
            got, want = answer(*case, Answer(name, value))
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
