"""Running a benchmark: compile, start every engine, time them in turns."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from lepton_tvm.bench.engines import ENGINES, Job, read_arrays, write_arrays
from lepton_tvm.bench.process import EngineFailed, EngineProcess
from lepton_tvm.bench.result import BenchResult, EngineTime
from lepton_tvm.data import as_samples
from lepton_tvm.errors import InputError
from lepton_tvm.measure import Rounds, measure_interleaved, median_ci, this_machine
from lepton_tvm.measure.inputs import random_inputs
from lepton_tvm.model import Model

__all__ = ["bench"]

OURS = "lepton_tvm"
_RANDOM_SAMPLES = 8
_MOST_CALIBRATION = 128


def bench(
    model: str | Path,
    *,
    against: Sequence[str] = (),
    threads: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    calibration: Any = None,
    target: str = "native",
    precisions: Sequence[str] = ("float32", "int8"),
    rounds: Rounds | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> BenchResult:
    """Time an ONNX model in this compiler and in other engines, in turns, one process each.

    `against` names engines of `ENGINES`; each runs in every one of `precisions` it has. int8 is
    calibrated with `calibration` (every form of `as_samples`, the first 128 samples), else with
    seeded random inputs, which is enough for a time and says nothing about accuracy. A peer's int8
    that its own tools cannot make is left out and stands in the report.

    Raises InputError for an unknown engine or one that is not installed (before anything is
    compiled), ModelError for the model, EngineFailed where an engine cannot run it.
    """
    say = progress or (lambda _text: None)
    _check(against, threads, precisions)
    # Read now: compiling may leave this process pinned to one core.
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    from lepton_tvm.frontend import load_model

    source = load_model(model, shapes=shapes)
    report: list[str] = []
    with tempfile.TemporaryDirectory(prefix="lepton_tvm_bench_") as folder, ExitStack() as stack:
        scratch = Path(folder)
        _write_calibration(source, calibration, scratch / "calibration", seed, report)
        write_arrays(scratch / "inputs.npz", random_inputs(source.inputs, seed))
        engines: dict[str, EngineProcess] = {}
        ours = _compiled(source, precisions, target, scratch, report, say)
        for job in _jobs(ours, str(model), against, precisions, threads, scratch, cpus):
            say(f"starting {job.engine} {job.precision}")
            try:
                process = EngineProcess(job)
            except EngineFailed as e:
                if job.engine == OURS or job.precision != "int8":
                    raise
                report.append(f"left out: {e}")
                continue
            engines[f"{job.engine} {job.precision}"] = stack.enter_context(process)
        say(f"timing {len(engines)} engines in turns")
        seconds = measure_interleaved({n: e.run for n, e in engines.items()}, rounds)
    return BenchResult(
        model=source.name,
        machine=this_machine(),
        threads=threads,
        engines=tuple(_time(engines[n], seconds[n], seed) for n in engines),
        report=tuple(report),
    )


def _check(against: Sequence[str], threads: int, precisions: Sequence[str]) -> None:
    if isinstance(against, str):
        raise InputError(f"against is a list of engine names, found the string {against!r}")
    peers = [name for name in ENGINES if name != OURS]
    for name in against:
        if name not in peers:
            raise InputError(f"unknown engine {name!r}; known are {', '.join(peers)}")
        if importlib.util.find_spec(ENGINES[name].module) is None:
            raise InputError(
                f"engine {name!r} is not installed; pip install 'lepton-tvm[peers]' brings it"
            )
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads must be a whole number of at least 1, found {threads!r}")
    unknown = [p for p in precisions if p not in ENGINES[OURS].precisions]
    if unknown or not precisions:
        raise InputError(f"precisions are float32 and int8, found {list(precisions)}")


def _write_calibration(model: Model, spec: Any, folder: Path, seed: int, report: list[str]) -> None:
    """One file a sample, so that no engine need hold them all."""
    folder.mkdir()
    samples: Iterator[Mapping[str, Any]]
    if spec is None:
        report.append(
            f"int8 was calibrated with {_RANDOM_SAMPLES} random inputs (seed {seed}): "
            "good for timing, not for accuracy"
        )
        samples = (random_inputs(model.inputs, seed + 1 + i) for i in range(_RANDOM_SAMPLES))
    else:
        samples = iter(as_samples(spec, model.inputs))
    for index, sample in enumerate(islice(samples, _MOST_CALIBRATION)):
        write_arrays(folder / f"{index:06d}.npz", sample)


def _compiled(
    model: Model,
    precisions: Sequence[str],
    target: str,
    scratch: Path,
    report: list[str],
    say: Callable[[str], None],
) -> dict[str, Path]:
    from lepton_tvm.compiler import compile as compile_model
    from lepton_tvm.quantization import quantize

    paths = {}
    for precision in precisions:
        say(f"compiling {precision}")
        path = scratch / f"{precision}.so"
        variant = model
        if precision == "int8":
            stored = sorted((scratch / "calibration").glob("*.npz"))
            try:
                variant = quantize(model, _Stored(stored))
            except InputError as e:
                # The data was checked when it was written, so this is about the model.
                report.append(f"left out: engine {OURS} (int8): {e}")
                continue
        compile_model(variant, target=target, output=path, db=False)
        paths[precision] = path
    return paths


class _Stored:
    """Calibration files as samples that can be read again and are not held."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (read_arrays(str(f)) for f in self._files)


def _jobs(
    ours: Mapping[str, Path],
    model: str,
    against: Sequence[str],
    precisions: Sequence[str],
    threads: int,
    scratch: Path,
    cpus: tuple[int, ...],
) -> Iterator[Job]:
    for engine in (OURS, *dict.fromkeys(against)):
        for precision in (p for p in ENGINES[engine].precisions if p in precisions):
            if engine == OURS and precision not in ours:
                continue
            own = scratch / f"{engine}_{precision}"
            own.mkdir()
            yield Job(
                engine=engine,
                precision=precision,
                model=str(ours[precision]) if engine == OURS else str(Path(model).absolute()),
                inputs=str(scratch / "inputs.npz"),
                calibration=str(scratch / "calibration"),
                threads=threads,
                scratch=str(own),
                cpus=cpus,
            )


def _time(process: EngineProcess, seconds: list[float], seed: int) -> EngineTime:
    return EngineTime(
        engine=process.job.engine,
        version=process.version,
        precision=process.job.precision,
        isa=process.isa,
        latency_ms=median_ci(seconds, seed=seed).scaled(1e3),
        samples_s=tuple(seconds),
    )
