"""Our builders and runners as MetaSchedule's: TVM's own tuner on warm, isolated workers.

TVM's builder starts new processes for every batch, which import for half a minute; its runner
knows one device. With these two its search works as fast as ours: here, on a Dask cluster or on the
devices of a farm.

    with ParallelBuilder() as builder, LocalRunner() as runner:
        ms.tune_tir(
            module, parse_target("native").tvm, "work", 64, builder=LeptonBuilder(builder),
            runner=LeptonRunner(runner, "work"),
        )
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.builder import BuilderInput, BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.runner import (
    PyRunner,
    PyRunnerFuture,
    RunnerFuture,
    RunnerInput,
    RunnerResult,
)
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from lepton_tvm.errors import InputError
from lepton_tvm.measure.timing_inputs import random_inputs
from lepton_tvm.model import TensorInfo
from lepton_tvm.targets import Target, parse_target
from lepton_tvm.tuning.metaschedule import target_text
from lepton_tvm.workers import Argument, Builder, BuildRequest, Built, Runner, RunRequest, RunResult
from lepton_tvm.workers.trial_requests import fair

__all__ = ["LeptonBuilder", "LeptonRunner"]


@derived_object
class LeptonBuilder(PyBuilder):
    """A MetaSchedule builder that has one of ours build for `target`, as `--target` names it.

    The caller closes `builder`. What is asked for another target is an error of that candidate. A
    full disk or a missing compiler is no candidate's fault and ends TVM's tuner, with a
    RuntimeError as TVM passes it on.
    """

    def __init__(self, builder: Builder, target: str | Target = "native") -> None:
        super().__init__()
        self.builder = builder
        self.target = parse_target(target)

    def build(self, build_inputs: Sequence[BuilderInput]) -> list[BuilderResult]:
        """One result for each, in order; a library in a folder of its own, which TVM removes."""
        due = target_text(self.target.tvm)
        fitting = {
            str(index): wanted
            for index, wanted in enumerate(build_inputs)
            if target_text(wanted.target) == due
        }
        requests = [self._request(name, wanted.mod) for name, wanted in fitting.items()]
        made = {built.id: _built(built) for built in self.builder.build(requests)}
        other = BuilderResult(None, f"this builder makes code for {self.target} only")
        return [made.get(str(index), other) for index in range(len(build_inputs))]

    def _request(self, name: str, mod: tvm.IRModule) -> BuildRequest:
        plain = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(mod)
        text = tvm.ir.save_json(plain)
        return BuildRequest(name, text, str(self.target), self.target.cores, decisions=None)


@derived_object
class LeptonRunner(PyRunner):
    """A MetaSchedule runner that has one of ours time kernels for `budget_s` seconds each.

    Arguments are random and lie in `folder`. The caller closes `runner`.
    """

    def __init__(
        self,
        runner: Runner,
        folder: str | Path,
        *,
        threads: int = 1,
        budget_s: float = 0.1,
        on_gpu: bool = False,
    ) -> None:
        super().__init__()
        if threads < 1:
            raise InputError(f"threads is {threads}: it must be at least 1")
        self.runner = runner
        self.folder = Path(folder)
        self.options: dict[str, Any] = {
            "threads": threads, "budget_s": budget_s, "on_gpu": on_gpu,
        }  # fmt: skip

    def run(self, runner_inputs: Sequence[RunnerInput]) -> list[RunnerFuture]:
        """The times of each, in order, taken before this returns."""
        requests = [
            RunRequest(
                str(index),
                str(wanted.artifact_path),
                tuple(self._argument(info) for info in wanted.args_info),
                **self.options,
            )
            for index, wanted in enumerate(runner_inputs)
        ]
        timed = {result.id: result for result in self.runner.run(requests)}
        return [_Timed(timed[request.id]) for request in requests]

    def _argument(self, info: Any) -> Argument:
        shape, dtype = tuple(int(d) for d in info.shape), str(info.dtype)
        path = self.folder / f"{dtype}-{'x'.join(map(str, shape))}.bin"
        if not path.exists():
            (drawn,) = random_inputs([TensorInfo("x", shape, dtype)], 0).values()
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(np.ascontiguousarray(drawn).tobytes())
        return Argument(shape, dtype, str(path))


@derived_object
class _Timed(PyRunnerFuture):
    """A kernel that was timed."""

    def __init__(self, result: RunResult) -> None:
        super().__init__()
        self.timed = fair(result)

    def done(self) -> bool:
        """Always."""
        return True

    def result(self) -> RunnerResult:
        """Its samples in seconds, or what went wrong."""
        if self.timed.state == "ok":
            return RunnerResult(list(self.timed.samples_s), None)
        return RunnerResult(None, f"{self.timed.state}: {self.timed.error}")


def _built(built: Built) -> BuilderResult:
    fair(built)
    if built.path is None:
        return BuilderResult(None, f"{built.state}: {built.error}")
    path = Path(built.path)
    folder = path.with_suffix("")
    folder.mkdir()
    return BuilderResult(str(path.rename(folder / path.name)), None)
