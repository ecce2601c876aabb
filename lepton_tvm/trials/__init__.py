"""Building and running candidate kernels in processes of their own, here or elsewhere."""

from lepton_tvm.trials.requests import (
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
    "RunRequest",
    "RunResult",
    "Runner",
]
