"""Past comparisons, machine by machine: figures of different machines are never mixed."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from lepton_tvm.compare.comparison import Comparison, Variant
from lepton_tvm.compare.select_variants import find_model
from lepton_tvm.db import Artifact, Database, Evaluation, Measurement, open_database
from lepton_tvm.measure import Machine, Quality, median_ci, speedup_ci
from lepton_tvm.model import Model

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["History", "history"]


@dataclass(frozen=True)
class History:
    """The newest comparison of a model for each machine, target and number of threads."""

    db: str
    model: str
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> dict[str, Any]:
        """As `compare --history --json` shows it: one entry for each comparison."""
        return {
            "db": self.db,
            "model": self.model,
            "machines": [
                {"target": c.target, "threads": c.baseline.threads, **c.to_json()}
                for c in self.comparisons
            ],
        }

    def __rich__(self) -> Group:
        from rich.console import Group

        nothing = f"no comparison of {self.model} is stored in {self.db}: run lepton-tvm compare"
        return Group(*(self.comparisons or (nothing,)))

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=110, color_system=None, markup=False, emoji=False).print(self)
        return out.getvalue().rstrip()


def history(
    model: Model | str | None = None, *, db: str | PathLike[str] | Database | None = None
) -> History:
    """Read stored comparisons; nothing is run. `model` and `db` as in `compare`.

    Of runs on one machine (hardware fingerprint), for one target and number of threads, the newest
    one with a float baseline is shown. Raises InputError where there is no such model.
    """
    database = open_database(db)
    try:
        record = find_model(database, model)
        artifacts = {a.sha256: a for a in database.artifacts(model_id=record.id)}
        runs: dict[str, list[Measurement]] = defaultdict(list)
        for sha256 in artifacts:
            for measurement in database.measurements(sha256):
                runs[measurement.run_id].append(measurement)
        newest: dict[tuple[str, str, int], tuple[str, Comparison]] = {}
        for run, measured in runs.items():
            base = next((m for m in measured if artifacts[m.artifact_sha256].is_baseline), None)
            if base is None:
                continue
            target = artifacts[base.artifact_sha256].target
            place = (base.hardware, target, base.threads)
            if place in newest and newest[place][0] >= base.created_at:
                continue
            judged = database.evaluations(run_id=run)
            made = _comparison(database, record.name, artifacts, base, measured, judged)
            newest[place] = (base.created_at, made)
        found = [made for _, (_, made) in sorted(newest.items())]
        return History(database.url, record.name, tuple(found))
    finally:
        if database is not db:
            database.close()


def _comparison(
    database: Database,
    name: str,
    artifacts: Mapping[str, Artifact],
    base: Measurement,
    measured: Iterable[Measurement],
    judged: Iterable[Evaluation],
) -> Comparison:
    quality = {
        e.artifact_sha256: Quality(e.n, e.metric, e.value, e.agreement, e.sqnr_db) for e in judged
    }

    def variant(m: Measurement) -> Variant:
        artifact = artifacts[m.artifact_sha256]
        return Variant(
            artifact=artifact,
            path=str(database.blobs.path(artifact.sha256)),
            threads=m.threads,
            latency_ms=median_ci(m.samples_s).scaled(1e3),
            samples=len(m.samples_s),
            speedup=None if m is base else speedup_ci(base.samples_s, m.samples_s),
            quality=quality.get(artifact.sha256),
        )

    # One run is of one machine; what says otherwise was not measured in turns with the baseline.
    beside = [m for m in measured if m is not base and m.hardware == base.hardware]
    return Comparison(
        machine=Machine.from_json(base.machine),
        db=database.url,
        model=name,
        target=artifacts[base.artifact_sha256].target,
        run_id=base.run_id,
        baseline=variant(base),
        variants=tuple(variant(m) for m in beside if len(m.samples_s) == len(base.samples_s)),
        skipped=(),
    )
