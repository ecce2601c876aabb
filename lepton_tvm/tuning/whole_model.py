"""Two artifacts of one model side by side: whether they compute the same, and their times."""

from __future__ import annotations

from dataclasses import dataclass, field

from lepton_tvm.compiler.compile import CompiledArtifact
from lepton_tvm.db import Database, Measurement
from lepton_tvm.db.records import new_id
from lepton_tvm.ir.graph import Array
from lepton_tvm.measure import Estimate, Rounds, median_ci, speedup_ci
from lepton_tvm.measure.loaded_artifacts import ArtifactPlace
from lepton_tvm.measure.timing_inputs import random_inputs
from lepton_tvm.model import TensorInfo
from lepton_tvm.passes.quantize.schemes import SCHEMES
from lepton_tvm.workers.number_check import difference

__all__ = ["SideBySide"]

_ROUNDS = Rounds(least=60, most=600, budget_s=6.0)


@dataclass
class SideBySide:
    """A model's zero-trial artifact and its tuned one, opened on `place` with the same inputs."""

    database: Database
    place: ArtifactPlace
    zero: CompiledArtifact
    tuned: CompiledArtifact
    threads: int
    seed: int = 0
    _inputs: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        paths = {a.sha256: self.database.artifact_path(a.sha256) for a in (self.zero, self.tuned)}
        described = self.place.open(paths, self.threads)[self.zero.sha256]["inputs"]
        self._inputs = random_inputs([TensorInfo.from_json(t) for t in described], self.seed)

    def difference(self) -> str | None:
        """How outputs of the tuned one differ from the other's; None where they do not."""
        due, found = (self.place.infer(a.sha256, self._inputs) for a in (self.zero, self.tuned))
        tolerance = SCHEMES[str(self.zero.manifest["precision"])].model_tolerance
        for name, values in due.items():
            told = difference(found[name], values, tolerance)
            if told is not None:
                return f"output {name}: {told}"
        return None

    def time(self) -> tuple[Estimate, Estimate, Estimate]:
        """Median seconds of both, and how many times faster the tuned one is.

        They run in turns; the samples are stored with the place's machine.
        """
        zero, tuned = self.zero.sha256, self.tuned.sha256
        seconds = self.place.time([zero, tuned], self._inputs, _ROUNDS)
        machine, run = self.place.machine, new_id()
        family = str(self.zero.manifest["target"]).partition(":")[0]
        medians = {sha: median_ci(found, seed=self.seed) for sha, found in seconds.items()}
        self.database.add_results(
            [
                Measurement(
                    run_id=run,
                    artifact_sha256=sha,
                    hardware=machine.fingerprint_for(family),
                    machine=machine.to_json(),
                    threads=self.threads,
                    median_s=medians[sha].value,
                    samples_s=found,
                )
                for sha, found in seconds.items()
            ]
        )
        speedup = speedup_ci(seconds[zero], seconds[tuned], seed=self.seed)
        return medians[zero], medians[tuned], speedup
