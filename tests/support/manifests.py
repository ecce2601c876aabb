"""The manifest of a small network, as a file holds it."""

from __future__ import annotations

from typing import Any

from lepton_tvm.artifact import Manifest


def manifest(**changes: Any) -> dict[str, Any]:
    """A manifest of float32 for AVX2; `changes` replace its fields."""
    fields = {
        "name": "toy",
        "precision": "float32",
        "inputs": [{"name": "x", "shape": (1, 2), "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": (1,), "dtype": "float32"}],
        "target": "x86:avx2",
        "isa": "avx2",
        "cpu_features": ["fma", "avx2"],
        "source_sha256": "0" * 64,
    }
    return Manifest(**{**fields, **changes}).to_json()
