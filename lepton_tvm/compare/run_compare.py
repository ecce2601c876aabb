"""Running a comparison: load, time in turns, evaluate, store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.compare.comparison import Comparison, Variant
from lepton_tvm.compare.select_variants import Selection, select
from lepton_tvm.data import Samples, as_samples
from lepton_tvm.db import Artifact, Database, Evaluation, Measurement, open_database
from lepton_tvm.db.records import new_id
from lepton_tvm.errors import InputError, RequirementError
from lepton_tvm.farm import Farm
from lepton_tvm.farm.device_artifacts import remote_artifacts
from lepton_tvm.measure import (
    Machine,
    Quality,
    QualityMeter,
    Rounds,
    median_ci,
    speedup_ci,
)
from lepton_tvm.measure.loaded_artifacts import ArtifactPlace, LocalArtifacts
from lepton_tvm.measure.timing_inputs import random_inputs
from lepton_tvm.model import Model, TensorInfo

__all__ = ["compare"]

Array = npt.NDArray[Any]


def compare(
    model: Model | str | None = None,
    *,
    db: str | PathLike[str] | Database | None = None,
    data: Any = None,
    threads: int = 1,
    target: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    fail_if_slower: float | None = None,
    rounds: Rounds | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Re-run the stored artifacts of a model, float baseline and variants in turns.

    `model` is a `Model`, a name, or the beginning of an id; None where the database holds one.
    `data` (every form of `as_samples`; labels under `label`) gives accuracy, agreement and SQNR;
    without it they are None. Raw samples and evaluations are stored. `seed` draws the inputs that
    are timed where there is no data, and the bootstrap. With `tracker` (`HOST:PORT`) and `key` all
    runs on a device of that farm, whose machine the measurements are stored with.

    Raises InputError where there is nothing to compare, ArtifactError for a damaged file,
    DatabaseError, DeviceError for a farm that has no such device, and RequirementError (its
    `comparison` holds the result) where a variant's speed-up is below `fail_if_slower`.
    """
    if fail_if_slower is not None and not fail_if_slower > 0:
        raise InputError(f"fail_if_slower must be above 0, found {fail_if_slower}")
    farm = Farm.of(tracker, key)
    say = progress or (lambda _text: None)
    database = open_database(db)
    try:
        database.check_writable()
        with _place(farm, threads, say) as place:
            chosen = select(database, model, target, place)
            local = place or LocalArtifacts()
            result = _compare(database, chosen, data, threads, local, rounds or Rounds(), seed, say)
    finally:
        if database is not db:
            database.close()
    if fail_if_slower is not None:
        _require(result, fail_if_slower)
    return result


@contextmanager
def _place(
    farm: Farm | None, threads: int, say: Callable[[str], None]
) -> Iterator[ArtifactPlace | None]:
    """The device that was asked for; None for this machine."""
    if farm is None:
        yield None
        return
    say("waiting for a device")
    with remote_artifacts(farm, threads=threads) as remote:
        yield remote


def _compare(
    database: Database,
    chosen: Selection,
    data: Any,
    threads: int,
    place: ArtifactPlace,
    rounds: Rounds,
    seed: int,
    say: Callable[[str], None],
) -> Comparison:
    artifacts = (chosen.baseline, *chosen.variants)
    paths = {a.sha256: database.artifact_path(a) for a in artifacts}
    options = {"model": chosen.model.name, "target": chosen.baseline.target, "threads": threads}
    with database.job("compare", options, {"compare": seed}) as job:
        manifests = place.open(paths, threads)
        described = manifests[chosen.baseline.sha256]["inputs"]
        inputs = tuple(TensorInfo.from_json(t) for t in described)
        samples = None if data is None else as_samples(data, inputs)
        timed = random_inputs(inputs, seed)
        quality: dict[str, Quality] = {}
        if samples is not None:
            say("evaluating on the data")
            timed, quality = _evaluate(chosen, place, manifests, samples)
        say(f"timing {len(artifacts)} artifacts in turns")
        seconds = place.time(list(paths), timed, rounds)
        machine, run = place.machine, new_id()
        database.add_results(
            [_measurement(a, run, machine, threads, seconds[a.sha256]) for a in artifacts],
            _evaluations(chosen, run, samples, quality),
        )
        job.progress(run_id=run)
    base = seconds[chosen.baseline.sha256]

    def variant(a: Artifact) -> Variant:
        mine = seconds[a.sha256]
        return Variant(
            artifact=a,
            path=str(paths[a.sha256]),
            threads=threads,
            latency_ms=median_ci(mine, seed=seed).scaled(1e3),
            samples=len(mine),
            speedup=None if a is chosen.baseline else speedup_ci(base, mine, seed=seed),
            quality=quality.get(a.sha256),
        )

    return Comparison(
        machine=machine,
        db=database.url,
        model=chosen.model.name,
        target=chosen.baseline.target,
        run_id=run,
        baseline=variant(chosen.baseline),
        variants=tuple(variant(a) for a in chosen.variants),
        skipped=chosen.skipped,
    )


def _evaluate(
    chosen: Selection,
    place: ArtifactPlace,
    manifests: Mapping[str, Mapping[str, Any]],
    samples: Samples,
) -> tuple[dict[str, Array], dict[str, Quality]]:
    """One pass over the data: its first sample, and what was found by artifact."""
    meters = {sha: QualityMeter() for sha in manifests}
    base = chosen.baseline.sha256
    first: dict[str, Array] = {}
    for sample, labels in samples.labelled():
        first = first or sample
        outputs = {sha: _real(m, place.infer(sha, sample)) for sha, m in manifests.items()}
        for sha, meter in meters.items():
            meter.add(outputs[sha], None if sha == base else outputs[base], labels)
    return first, {sha: meter.result() for sha, meter in meters.items()}


def _real(manifest: Mapping[str, Any], outputs: Mapping[str, Array]) -> list[Array]:
    """Outputs as real numbers, where a variant returns quantized ones."""
    return [
        _dequantized(outputs[info["name"]], info.get("quantization"))
        for info in manifest["outputs"]
    ]


def _dequantized(value: Array, quantization: Mapping[str, Any] | None) -> Array:
    if not quantization:
        return value
    shifted = value.astype(np.float32) - quantization["zero_point"]
    real: Array = shifted * np.float32(quantization["scale"])
    return real


def _measurement(
    artifact: Artifact, run: str, machine: Machine, threads: int, seconds: list[float]
) -> Measurement:
    return Measurement(
        run_id=run,
        artifact_sha256=artifact.sha256,
        hardware=machine.fingerprint_for(artifact.target.partition(":")[0]),
        machine=machine.to_json(),
        threads=threads,
        median_s=float(np.median(seconds)),
        samples_s=seconds,
    )


def _evaluations(
    chosen: Selection, run: str, samples: Samples | None, quality: Mapping[str, Quality]
) -> list[Evaluation]:
    if samples is None:
        return []
    base = chosen.baseline.sha256
    return [
        Evaluation(
            run_id=run,
            artifact_sha256=sha,
            baseline_sha256=None if sha == base else base,
            data_sha256=samples.fingerprint,
            n=q.n,
            metric=q.metric,
            value=q.accuracy,
            agreement=q.agreement,
            # No database column holds an infinity on every backend.
            sqnr_db=q.sqnr_db if q.sqnr_db is not None and np.isfinite(q.sqnr_db) else None,
        )
        for sha, q in quality.items()
    ]


def _require(result: Comparison, ratio: float) -> None:
    slow = result.slower_than(ratio)
    if not slow:
        return
    found = ", ".join(f"{v.name} {v.speedup.value:.2f}x" for v in slow if v.speedup)
    raise RequirementError(
        f"required speed-up over float {ratio:g}x was not met: {found}", comparison=result
    )
