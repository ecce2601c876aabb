"""Timing the kernels of our own artifacts, one process each, in turns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from lepton_tvm.artifact import read_manifest
from lepton_tvm.bench.engine_process import EngineProcess
from lepton_tvm.bench.engines import OURS, Job
from lepton_tvm.measure import Rounds
from lepton_tvm.measure.kernel_profile import Profile, make_profile
from lepton_tvm.measure.latency import in_turns
from lepton_tvm.measure.peak.peak_result import Peaks

__all__ = ["profile_artifacts"]

ROUNDS = Rounds(least=20, most=200, budget_s=5.0)


def profile_artifacts(
    plan: Job,
    artifacts: Mapping[str, Path],
    latency_s: Mapping[str, float],
    peaks: Peaks,
    rounds: Rounds | None = None,
) -> tuple[Profile, ...]:
    """A profile of each artifact (by precision), all run in turns as `plan` says.

    `latency_s` are medians of whole runs, taken before, and `peaks` hold `plan.threads`.
    """
    with ExitStack() as stack:
        running = {}
        for precision, path in artifacts.items():
            own = Path(plan.scratch) / f"{OURS}_{precision}_profile"
            own.mkdir()
            job = replace(
                plan,
                engine=OURS,
                precision=precision,
                model=str(path),
                scratch=str(own),
                profile=True,
            )
            running[precision] = stack.enter_context(EngineProcess(job))
        samplers = {name: partial(_calls, process) for name, process in running.items()}
        found = in_turns(samplers, rounds or ROUNDS)
        return tuple(
            make_profile(
                read_manifest(artifacts[precision]),
                process.calls,
                found[precision],
                latency_s[precision],
                peaks,
                plan.threads,
            )
            for precision, process in running.items()
        )


def _calls(process: EngineProcess) -> list[float]:
    """Seconds of each call in one run."""
    return process.profile(1)[1]
