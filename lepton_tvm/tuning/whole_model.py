"""Times two artifacts of one model in turns, and keeps the samples."""

from __future__ import annotations

from lepton_tvm.compiler import CompiledArtifact
from lepton_tvm.db import Database, Measurement
from lepton_tvm.db.records import new_id
from lepton_tvm.measure import Estimate, Rounds, median_ci, speedup_ci
from lepton_tvm.measure.artifacts import ArtifactPlace
from lepton_tvm.measure.inputs import random_inputs
from lepton_tvm.model import TensorInfo

__all__ = ["time_in_turns"]

_ROUNDS = Rounds(least=40, most=400, budget_s=6.0)


def time_in_turns(
    database: Database,
    place: ArtifactPlace,
    zero: CompiledArtifact,
    tuned: CompiledArtifact,
    threads: int,
    *,
    seed: int = 0,
) -> tuple[Estimate, Estimate, Estimate]:
    """Median seconds of `zero` and of `tuned`, and how many times faster `tuned` is.

    Both run on `place` in turns, with the same inputs; the samples are stored with its machine.
    """
    paths = {a.sha256: database.artifact_path(a.sha256) for a in (zero, tuned)}
    manifests = place.open(paths, threads)
    described = manifests[zero.sha256]["inputs"]
    inputs = random_inputs([TensorInfo.from_json(t) for t in described], seed)
    seconds = place.time(list(paths), inputs, _ROUNDS)
    machine, run = place.machine, new_id()
    family = str(manifests[zero.sha256]["target"]).partition(":")[0]
    medians = {sha: median_ci(found, seed=seed) for sha, found in seconds.items()}
    database.add_results(
        [
            Measurement(
                run_id=run,
                artifact_sha256=sha,
                hardware=machine.fingerprint_for(family),
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
