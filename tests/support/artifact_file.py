"""An artifact file that needs no compiler to make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lepton_tvm.artifact import Manifest
from lepton_tvm.artifact.container import pack


def make_artifact(path: Path, **changes: Any) -> Path:
    """A file that is an artifact in all but its code; `changes` replace manifest fields."""
    fields = {
        "name": "net",
        "precision": "float32",
        "inputs": [{"name": "x", "shape": (1, 4), "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": (1, 2), "dtype": "float32"}],
        "target": "x86:avx2",
        "isa": "avx2",
        "cpu_features": ["avx2"],
        "source_sha256": "a" * 64,
        **changes,
    }
    code = b"\x7fELF" + repr(sorted(changes)).encode() * 20
    path.write_bytes(code + pack(code, Manifest(**fields).to_json()))
    return path
