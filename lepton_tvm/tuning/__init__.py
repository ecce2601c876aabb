"""Searching schedules on the target: `tune`, and what it found."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_tvm.tuning.result import Status, TaskResult, TuneResult
    from lepton_tvm.tuning.session import parse_budget, tune

__all__ = ["Status", "TaskResult", "TuneResult", "parse_budget", "tune"]

_HOMES = {"parse_budget": "session", "tune": "session"}


def __getattr__(name: str) -> Any:
    # lazily, for the compiler needs the keys of records and the search needs the compiler
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'result')}")
    return getattr(home, name)
