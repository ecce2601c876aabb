"""Prefetching the next block of weights: where it is put, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import te

from lepton_tvm.kernels.matmul import MatmulShape, matmul, pack_matmul_weight
from lepton_tvm.kernels.register_tile import RegisterTile
from lepton_tvm.schedules.base import Defaults
from lepton_tvm.schedules.prefetch import insert_prefetch
from lepton_tvm.schedules.x86 import MATMUL
from lepton_tvm.targets import best_isa, parse_target
from tests.support.kernels import operands, run_kernel


def _case(rows: int, depth: int) -> tuple[MatmulShape, RegisterTile]:
    lanes = best_isa().lanes
    shape = MatmulShape((rows,), depth, 8 * lanes, 1, 2, lanes)
    return shape, RegisterTile(2, lanes, 1)


def _text(rows: int, depth: int, choices: Defaults) -> tuple[str, str]:
    """The scheduled product before and after."""
    shape, tile = _case(rows, depth)
    x = te.placeholder((rows, depth), "float32", "x")
    w = te.placeholder((shape.blocks, depth, shape.block), "float32", "w")
    func = te.create_prim_func([x, w, matmul(x, w, shape, tile)])
    sch = MATMUL.apply(func, parse_target("native"), choices)
    assert sch is not None
    before = sch.mod["main"].script()
    after = insert_prefetch(sch.mod["main"]).script()
    assert sch.mod["main"].script() == before, "the function that came in was changed"
    return before, after


def test_weights_that_are_read_in_several_passes_are_fetched_ahead() -> None:
    before, after = _text(20, 600, Defaults())
    assert "llvm.prefetch" not in before
    assert after.count("llvm.prefetch") == 1
    address = next(line for line in after.splitlines() if "llvm.prefetch" in line)
    assert "k_0 + T.int64(1)" in address or "k_0 + 1" in address


@pytest.mark.parametrize(("rows", "depth"), [(2, 600), (20, 8)], ids=["one pass", "near weights"])
def test_other_weights_are_not(rows: int, depth: int) -> None:
    before, after = _text(rows, depth, Defaults())
    assert after == before


def test_the_numbers_stay() -> None:
    shape, tile = _case(20, 600)
    x, w = operands(np.random.default_rng(0), False, (20, 600), (600, shape.columns))
    got = run_kernel(
        lambda a, b: matmul(a, b, shape, tile),
        MATMUL, best_isa().name, x, pack_matmul_weight(w, shape),
    )  # fmt: skip
    np.testing.assert_allclose(got, x.astype(np.float64) @ w, rtol=0, atol=1e-3)
