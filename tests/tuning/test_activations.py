"""Inputs of single kernels: values that would show wrong arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te

from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.kernels.register_tile import RegisterTile
from lepton_tvm.tuning.activations import activations


def prim_func(inputs: Any, output: Any) -> Any:
    return te.create_prim_func([*inputs, output])


def test_sums_are_of_either_sign_and_any_size() -> None:
    x = te.placeholder((1000,), "int32", "x")
    drawn = activations(prim_func([x], te.compute((1000,), lambda i: x[i] + 1)), 0, 3)
    assert drawn.dtype == np.int32
    assert drawn.min() < -(1 << 19)
    assert drawn.max() > 1 << 19
    assert np.mean(np.abs(drawn) < 1 << 11) > 0.3
    np.testing.assert_array_equal(
        drawn, activations(prim_func([x], te.compute((1000,), lambda i: x[i] + 1)), 0, 3)
    )


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_positions_stay_inside_of_what_is_read(dtype: str) -> None:
    table = te.placeholder((2, 8), "float32", "table")
    at = te.placeholder((50,), dtype, "at")
    taken = te.compute((50, 8), lambda i, j: table[tvm.tirx.max(at[i], at[i] - 1), j])
    drawn = activations(prim_func([table, at], taken), 1, 0)
    assert drawn.dtype == dtype
    assert set(np.unique(drawn)) == {0, 1}


def test_bytes_take_all_values_and_floats_are_normal() -> None:
    x = te.placeholder((64, 64), "uint8", "x")
    y = te.placeholder((64, 64), "bfloat16", "y")
    func = prim_func(
        [x, y], te.compute((64, 64), lambda i, j: x[i, j].astype("bfloat16") + y[i, j])
    )
    assert len(np.unique(activations(func, 0, 0))) == 256
    floats = activations(func, 1, 0)
    assert str(floats.dtype) == "bfloat16"
    assert 0.9 < float(np.std(floats.astype("float32"))) < 1.1


def test_packed_words_hold_four_random_bytes() -> None:
    """Or the weights of the three other channels would be multiplied by zero."""
    x = te.placeholder((1000,), "int32", "x")
    notes = KernelNotes("conv2d", "uint8x4", 1, RegisterTile(1, 16, 1), 4).to_attrs()
    func = prim_func([x], te.compute((1000,), lambda i: x[i] + 1, name="conv", attrs=notes))
    taken = activations(func, 0, 0).view(np.uint8).reshape(-1, 4)
    assert min(len(np.unique(taken[:, byte])) for byte in range(4)) > 200
