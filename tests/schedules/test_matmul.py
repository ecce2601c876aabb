"""Products with packed weights against NumPy: one row, prime rows, odd depths and columns."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_tvm.kernels.matmul import MatmulShape, matmul, pack_matmul_weight
from lepton_tvm.kernels.register_tile import choose_tile
from lepton_tvm.schedules.x86 import MATMUL
from lepton_tvm.targets import ISAS
from tests.support.kernels import UNITS, largest_weight, needs, operands, run_kernel
from tests.support.product_cases import PRODUCTS


@pytest.mark.parametrize(("isa", "dot"), UNITS)
@pytest.mark.parametrize(("leading", "depth", "columns"), PRODUCTS)
def test_product_equals_numpy(
    leading: tuple[int, ...], depth: int, columns: int, isa: str, dot: int
) -> None:
    needs(isa)
    level = ISAS[isa]
    tile = choose_tile(int(np.prod(leading)), columns, level, dot)
    shape = MatmulShape(leading, depth, columns, dot, tile.rows, tile.channels)
    x, w = operands(
        np.random.default_rng(depth), dot > 1, (*leading, depth), (depth, columns),
        largest_weight(isa, dot),
    )  # fmt: skip
    got = run_kernel(
        lambda a, b: matmul(a, b, shape, tile), MATMUL, isa, x, pack_matmul_weight(w, shape)
    )
    want = x.astype(np.float64) @ w.astype(np.float64)
    if dot > 1:
        np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_allclose(got, want, rtol=0, atol=depth * 16 * 2.0**-24 + 1e-6)
