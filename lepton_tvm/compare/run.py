"""Running a comparison: load, time in turns, evaluate, store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm import runtime
from lepton_tvm.compare.result import Comparison, Variant
from lepton_tvm.compare.select import Selection, select
from lepton_tvm.data import Samples, as_samples
from lepton_tvm.db import Artifact, Database, Evaluation, Measurement, open_database
from lepton_tvm.db.records import new_id
from lepton_tvm.errors import InputError, RequirementError
from lepton_tvm.measure import (
    Machine,
    Quality,
    QualityMeter,
    Rounds,
    measure_interleaved,
    median_ci,
    pinned,
    speedup_ci,
    this_machine,
)
from lepton_tvm.measure.inputs import random_inputs
from lepton_tvm.measure.quality import as_list
from lepton_tvm.model import Model
from lepton_tvm.runtime import Net

__all__ = ["compare"]

Array = npt.NDArray[Any]


def compare(
    model: Model | str | None = None,
    *,
    db: str | Database | None = None,
    data: Any = None,
    threads: int = 1,
    target: str | None = None,
    fail_if_slower: float | None = None,
    rounds: Rounds | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Re-run the stored artifacts of a model, float baseline and variants in turns.

    `model` is a `Model`, a name, or the beginning of an id; None where the database holds one.
    `data` (every form of `as_samples`; labels under `label`) gives accuracy, agreement and SQNR;
    without it they are None. Raw samples and evaluations are stored. `seed` draws the inputs that
    are timed where there is no data, and the bootstrap.

    Raises InputError where there is nothing to compare, ArtifactError for a damaged file,
    DatabaseError, and RequirementError (its `comparison` holds the result) where a variant's
    speed-up is below `fail_if_slower`.
    """
    if fail_if_slower is not None and not fail_if_slower > 0:
        raise InputError(f"fail_if_slower must be above 0, found {fail_if_slower}")
    say = progress or (lambda _text: None)
    database = open_database(db)
    try:
        result = _compare(database, model, data, threads, target, rounds or Rounds(), seed, say)
    finally:
        if database is not db:
            database.close()
    if fail_if_slower is not None:
        _require(result, fail_if_slower)
    return result


def _compare(
    database: Database,
    model: Model | str | None,
    data: Any,
    threads: int,
    target: str | None,
    rounds: Rounds,
    seed: int,
    say: Callable[[str], None],
) -> Comparison:
    database.check_writable()
    chosen = select(database, model, target)
    artifacts = (chosen.baseline, *chosen.variants)
    paths = {a.sha256: database.artifact_path(a) for a in artifacts}
    options = {"model": chosen.model.name, "target": chosen.baseline.target, "threads": threads}
    with database.job("compare", options, {"compare": seed}) as job:
        nets = {a.sha256: runtime.load(paths[a.sha256], threads=threads) for a in artifacts}
        inputs = nets[chosen.baseline.sha256].inputs
        samples = None if data is None else as_samples(data, inputs)
        timed = random_inputs(inputs, seed)
        quality: dict[str, Quality] = {}
        if samples is not None:
            say("evaluating on the data")
            timed, quality = _evaluate(chosen, nets, samples)
        say(f"timing {len(nets)} artifacts in turns")
        runners = {sha: net.timer(timed) for sha, net in nets.items()}
        slowest = runners[chosen.baseline.sha256]
        cpus = sorted(os.sched_getaffinity(0), reverse=True)
        with pinned(lambda: slowest(1), threads, cpus):
            seconds = measure_interleaved(runners, rounds)
        machine, run = this_machine(), new_id()
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
    chosen: Selection, nets: Mapping[str, Net], samples: Samples
) -> tuple[dict[str, Array], dict[str, Quality]]:
    """One pass over the data: its first sample, and what was found by artifact."""
    meters = {sha: QualityMeter() for sha in nets}
    base = chosen.baseline.sha256
    first: dict[str, Array] = {}
    for sample, labels in samples.labelled():
        first = first or sample
        outputs = {sha: _real(net, net(sample)) for sha, net in nets.items()}
        for sha, meter in meters.items():
            meter.add(outputs[sha], None if sha == base else outputs[base], labels)
    return first, {sha: meter.result() for sha, meter in meters.items()}


def _real(net: Net, outputs: Any) -> list[Array]:
    """Outputs as real numbers, where a variant returns quantized ones."""
    values = as_list(outputs)
    return [
        _dequantized(value, info.get("quantization"))
        for value, info in zip(values, net.manifest["outputs"], strict=True)
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
        hardware=machine.fingerprint,
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
    error = RequirementError(f"required speed-up over float {ratio:g}x was not met: {found}")
    error.comparison = result  # type: ignore[attr-defined]
    raise error
