"""Building and running candidate kernels in processes of their own, here or elsewhere.

`ParallelBuilder` and `LocalRunner` do it on this machine; neither loads the compiler into this
process. `open_builder` and `open_runner` choose between them and other machines (`DaskBuilder` in
`dask_builder`, `RpcRunner` in `remote`). `lepton_tvm.trials.kernel_build.build_kernel` is the work
of a builder as a function.
"""

from lepton_tvm.trials.builder import ParallelBuilder
from lepton_tvm.trials.places import artifacts_of, open_builder, open_runner
from lepton_tvm.trials.requests import (
    Argument,
    Builder,
    BuildRequest,
    Built,
    Runner,
    RunRequest,
    RunResult,
)
from lepton_tvm.trials.runner import LocalRunner

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
    "artifacts_of",
    "open_builder",
    "open_runner",
]
