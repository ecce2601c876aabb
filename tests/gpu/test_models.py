"""Whole small models on a GPU (or in the emulator) against the same models on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_tvm.demo.assets import model_path
from tests.gpu import whole


@pytest.mark.parametrize(
    ("precision", "target"),
    [("float32", "cuda:sm_80"), ("int8", "cuda:sm_80"), ("bfloat16", "cuda:sm_80")],
)
def test_demo_network(kernels: Any, tmp_path: Path, precision: str, target: str) -> None:
    got, want = kernels(whole.both, str(model_path()), precision, target, str(tmp_path))
    if precision == "int8":
        np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


def test_a_candidate_is_checked_and_timed(kernels: Any, tmp_path: Path) -> None:
    result = kernels(whole.trial, str(tmp_path))
    assert (result.state, result.error) == ("ok", None)
    assert len(result.samples_s) >= 1
    assert min(result.samples_s) > 0
