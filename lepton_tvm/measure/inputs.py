"""Inputs for timing where nobody gave data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.model import TensorInfo

__all__ = ["random_inputs"]

Array = npt.NDArray[Any]


def random_inputs(inputs: Sequence[TensorInfo], seed: int) -> dict[str, Array]:
    """Seeded inputs for timing: normal floats, bytes of all values, other integers 0 or 1."""
    generator = np.random.default_rng(seed)
    return {t.name: _random(t, generator) for t in inputs}


def _random(info: TensorInfo, generator: np.random.Generator) -> Array:
    kind = np.dtype(info.dtype)
    if kind.kind == "f":
        return generator.standard_normal(info.shape).astype(kind)
    if kind.itemsize == 1 and kind.kind in "iu":
        limits = np.iinfo(kind)
        return generator.integers(limits.min, limits.max + 1, info.shape).astype(kind)
    return generator.integers(0, 2, info.shape).astype(kind)
