"""Searching schedules on the target: `tune`, and what it found."""

from __future__ import annotations

from lepton_tvm.tuning.run_tune import tune
from lepton_tvm.tuning.tune_options import parse_budget
from lepton_tvm.tuning.tune_result import Status, TaskResult, TuneResult

__all__ = ["Status", "TaskResult", "TuneResult", "parse_budget", "tune"]
