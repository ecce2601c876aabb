"""Measuring speed and accuracy, with raw samples and confidence intervals.

Importing this package loads no NumPy: the keys of records need the machine alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_tvm.measure.latency import Rounds, measure_interleaved
    from lepton_tvm.measure.machine import Machine, this_machine
    from lepton_tvm.measure.pinning import pinned
    from lepton_tvm.measure.quality import Quality, QualityMeter
    from lepton_tvm.measure.stats import Estimate, median_ci, speedup_ci

__all__ = [
    "Estimate",
    "Machine",
    "Quality",
    "QualityMeter",
    "Rounds",
    "measure_interleaved",
    "median_ci",
    "pinned",
    "speedup_ci",
    "this_machine",
]

_HOMES = {
    "Estimate": "stats",
    "Machine": "machine",
    "Quality": "quality",
    "QualityMeter": "quality",
    "Rounds": "latency",
    "measure_interleaved": "latency",
    "median_ci": "stats",
    "pinned": "pinning",
    "speedup_ci": "stats",
    "this_machine": "machine",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
