"""Prune, quantize and compile ONNX models with Apache TVM, and prove that the result is faster.

Importing this package loads nothing heavy: each name below is fetched from its module when it is
first used. `lepton_tvm.runtime` needs no compiler at all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_tvm.bench import bench
    from lepton_tvm.compare import compare
    from lepton_tvm.compiler.compile import compile
    from lepton_tvm.compression.preprocess import fold_preprocessing
    from lepton_tvm.compression.prune import compress
    from lepton_tvm.compression.quantize import QuantizeConfig, quantize, quantize_model
    from lepton_tvm.db import open_database
    from lepton_tvm.errors import LeptonError
    from lepton_tvm.frontend import load_model, save_model
    from lepton_tvm.model import Model
    from lepton_tvm.tuning import tune

__all__ = [
    "LeptonError",
    "Model",
    "QuantizeConfig",
    "bench",
    "compare",
    "compile",
    "compress",
    "fold_preprocessing",
    "load_model",
    "open_database",
    "quantize",
    "quantize_model",
    "save_model",
    "tune",
]

__version__ = "0.1.0"

_HOMES = {
    "LeptonError": "lepton_tvm.errors",
    "Model": "lepton_tvm.model",
    "QuantizeConfig": "lepton_tvm.compression.quantize",
    "bench": "lepton_tvm.bench",
    "compare": "lepton_tvm.compare",
    "compile": "lepton_tvm.compiler.compile",
    "compress": "lepton_tvm.compression.prune",
    "fold_preprocessing": "lepton_tvm.compression.preprocess",
    "load_model": "lepton_tvm.frontend",
    "open_database": "lepton_tvm.db",
    "quantize": "lepton_tvm.compression.quantize",
    "quantize_model": "lepton_tvm.compression.quantize",
    "save_model": "lepton_tvm.frontend",
    "tune": "lepton_tvm.tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lepton_tvm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
