"""Times two artifacts of one model in turns, and keeps the samples."""

from __future__ import annotations

import os

from lepton_tvm import runtime
from lepton_tvm.compiler import CompiledArtifact
from lepton_tvm.db import Database, Measurement
from lepton_tvm.db.records import new_id
from lepton_tvm.measure import (
    Estimate,
    Rounds,
    measure_interleaved,
    median_ci,
    pinned,
    speedup_ci,
    this_machine,
)
from lepton_tvm.measure.inputs import random_inputs

__all__ = ["time_in_turns"]

_ROUNDS = Rounds(least=40, most=400, budget_s=6.0)


def time_in_turns(
    database: Database,
    zero: CompiledArtifact,
    tuned: CompiledArtifact,
    threads: int,
    *,
    seed: int = 0,
) -> tuple[Estimate, Estimate, Estimate]:
    """Median seconds of `zero` and of `tuned`, and how many times faster `tuned` is.

    Both run on this machine in turns, with the same inputs; the samples are stored.
    """
    paths = {a.sha256: database.artifact_path(a.sha256) for a in (zero, tuned)}
    nets = {sha: runtime.load(path, threads=threads) for sha, path in paths.items()}
    inputs = random_inputs(nets[zero.sha256].inputs, seed)
    runners = {sha: net.timer(inputs) for sha, net in nets.items()}
    cpus = sorted(os.sched_getaffinity(0), reverse=True)
    first = runners[zero.sha256]
    with pinned(lambda: first(1), threads, cpus):
        seconds = measure_interleaved(runners, _ROUNDS)
    machine, run = this_machine(), new_id()
    medians = {sha: median_ci(found, seed=seed) for sha, found in seconds.items()}
    database.add_results(
        [
            Measurement(
                run_id=run,
                artifact_sha256=sha,
                hardware=machine.fingerprint,
                machine=machine.to_json(),
                threads=threads,
                median_s=medians[sha].value,
                samples_s=found,
            )
            for sha, found in seconds.items()
        ]
    )
    speedup = speedup_ci(seconds[zero.sha256], seconds[tuned.sha256], seed=seed)
    return medians[zero.sha256], medians[tuned.sha256], speedup
