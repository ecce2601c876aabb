"""Two artifacts of one model side by side: whether they compute the same, and their times."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_tvm.compiler import CompiledArtifact
from lepton_tvm.db import Database, Measurement
from lepton_tvm.db.records import new_id
from lepton_tvm.ir.graph import Array
from lepton_tvm.measure import Estimate, Rounds, median_ci, speedup_ci
from lepton_tvm.measure.artifacts import ArtifactPlace
from lepton_tvm.measure.inputs import random_inputs
from lepton_tvm.model import TensorInfo
from lepton_tvm.trials.check import difference

__all__ = ["difference_of", "time_in_turns"]

_ROUNDS = Rounds(least=60, most=600, budget_s=6.0)
# Largest difference of outputs, as a share of the largest: kernels' differences add up, and one in
# a float kernel may move a quantized value by a step. Wrong kernels are off by more.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
_TOLERANCE_OF_OTHERS = 0.05


def difference_of(
    database: Database,
    place: ArtifactPlace,
    zero: CompiledArtifact,
    tuned: CompiledArtifact,
    threads: int,
    *,
    seed: int = 0,
) -> str | None:
    """How outputs of `tuned` differ from those of `zero` for one input; None where they do not."""
    inputs = _opened(database, place, (zero, tuned), threads, seed)
    due, found = (place.infer(a.sha256, inputs) for a in (zero, tuned))
    tolerance = _TOLERANCE.get(str(zero.manifest["precision"]), _TOLERANCE_OF_OTHERS)
    for name, values in due.items():
        told = difference(found[name], values, tolerance)
        if told is not None:
            return f"output {name}: {told}"
    return None


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
    inputs = _opened(database, place, (zero, tuned), threads, seed)
    seconds = place.time([zero.sha256, tuned.sha256], inputs, _ROUNDS)
    machine, run = place.machine, new_id()
    family = str(zero.manifest["target"]).partition(":")[0]
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


def _opened(
    database: Database,
    place: ArtifactPlace,
    artifacts: Sequence[CompiledArtifact],
    threads: int,
    seed: int,
) -> dict[str, Array]:
    """Open stored artifacts of one model on `place`; inputs for them."""
    paths = {a.sha256: database.artifact_path(a.sha256) for a in artifacts}
    place.open(paths, threads)
    described = artifacts[0].manifest["inputs"]
    return random_inputs([TensorInfo.from_json(t) for t in described], seed)
