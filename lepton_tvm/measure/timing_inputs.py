"""Inputs for timing: random where no data was given, and kept in files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.model import TensorInfo

__all__ = ["random_inputs", "read_arrays", "write_arrays"]

Array = npt.NDArray[Any]


def random_inputs(inputs: Sequence[TensorInfo], seed: int) -> dict[str, Array]:
    """Seeded inputs for timing: normal floats, bytes of all values, other integers 0 or 1."""
    generator = np.random.default_rng(seed)
    return {t.name: _random(t, generator) for t in inputs}


def read_arrays(file: str | Path | IO[bytes]) -> dict[str, Array]:
    """All arrays of a .npz file; objects, which would have to be unpickled, are refused."""
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def write_arrays(file: str | Path | IO[bytes], arrays: Mapping[str, Array]) -> None:
    """A .npz file of arrays with any names (`numpy.savez` takes no array called "file")."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(array))


def _random(info: TensorInfo, generator: np.random.Generator) -> Array:
    kind = np.dtype(info.dtype)
    if kind.kind == "f":
        return generator.standard_normal(info.shape).astype(kind)
    if kind.itemsize == 1 and kind.kind in "iu":
        limits = np.iinfo(kind)
        return generator.integers(limits.min, limits.max + 1, info.shape).astype(kind)
    return generator.integers(0, 2, info.shape).astype(kind)
