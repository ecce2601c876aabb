"""Processes on this machine that build and run one kernel each.

`ParallelBuilder` and `LocalRunner` load no compiler into the calling process: their workers do,
once, and are forked from then on. `kernel_build.build_kernel` is a builder's work as a function.
"""

from lepton_tvm.workers.local_builder import ParallelBuilder
from lepton_tvm.workers.local_runner import LocalRunner
from lepton_tvm.workers.trial_requests import (
    Argument,
    Builder,
    BuildRequest,
    Built,
    Runner,
    RunRequest,
    RunResult,
)

__all__ = [
    "Argument",
    "BuildRequest",
    "Builder",
    "Built",
    "LocalRunner",
    "ParallelBuilder",
    "RunRequest",
    "RunResult",
    "Runner",
]
