"""Running a benchmark: compile, start every engine, time them in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_tvm.bench.bench_result import BenchResult, EngineTime
from lepton_tvm.bench.device_engines import not_installed
from lepton_tvm.bench.engine_places import Engine, EnginePlace, busy_machine, engine_place
from lepton_tvm.bench.engine_process import EngineFailed
from lepton_tvm.bench.engines import ENGINES, OURS, Job
from lepton_tvm.bench.kernel_times import profile_artifacts
from lepton_tvm.bench.wanted_schemes import known_schemes, wanted_schemes
from lepton_tvm.data import as_samples
from lepton_tvm.errors import InputError
from lepton_tvm.farm.device_pool import farm_target
from lepton_tvm.measure import Rounds, measure_interleaved, median_ci
from lepton_tvm.measure.kernel_profile import Profile
from lepton_tvm.measure.peak.measure_peak import ROUNDS as PEAK_ROUNDS
from lepton_tvm.measure.peak.measure_peak import measure_peaks
from lepton_tvm.measure.timing_inputs import random_inputs, read_arrays, write_arrays
from lepton_tvm.model import Model
from lepton_tvm.targets import ISAS, Target, parse_target

if TYPE_CHECKING:
    from lepton_tvm.passes.quantize.schemes import Scheme

__all__ = ["bench"]

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
    precisions: Sequence[str] | None = None,
    peers_isa: str | None = None,
    profile: bool = False,
    peak: bool = False,
    tracker: str | None = None,
    key: str | None = None,
    rounds: Rounds | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> BenchResult:
    """Time an ONNX model in this compiler and in other engines, in turns, one process each.

    `against` names engines of `ENGINES`; each runs in every one of `precisions` it has. These are
    names of schemes; by default all that `target` has kernels for. int8 is
    calibrated with `calibration` (every form of `as_samples`, the first 128 samples), else with
    seeded random inputs, which is enough for a time and says nothing about accuracy. What a peer's
    own tools cannot make, and precisions that it has not, are left out and stand in the report.
    `peers_isa` limits peers to an instruction-set level where they have a switch for that.
    `profile` also times every kernel of this compiler's artifacts, beside the machine's peaks;
    `peak` keeps those peaks in the result. With `tracker` (`HOST:PORT`) and `key` everything is
    timed on a device of that farm and built for it; peers that are not installed there are left
    out.

    Raises InputError for an unknown engine or precision, an engine that is not installed (before
    anything is compiled), TargetError for a target or a precision that it has not, ModelError for
    the model, EngineFailed where an engine cannot run it, DeviceError for a farm without such a
    device.
    """
    say = progress or (lambda _text: None)
    away = tracker is not None or key is not None
    _check(against, threads, precisions, peers_isa, away=away)
    if away and (profile or peak):
        raise InputError(
            "--profile and --peak measure this machine alone: run them on the device itself"
        )
    goal = farm_target(target, tracker, key) if away else parse_target(target)
    wanted = wanted_schemes(precisions, goal)
    from lepton_tvm.frontend import load_model

    source = load_model(model, shapes=shapes)
    if source.is_quantized:
        raise InputError(
            f"model {source.name} is {source.precision} already: bench takes a float model and "
            "makes the other precisions of it; compile this one and run `compare`"
        )
    report: list[str] = []
    with tempfile.TemporaryDirectory(prefix="lepton_tvm_bench_") as folder, ExitStack() as stack:
        place: EnginePlace = stack.enter_context(engine_place(tracker, key, threads))
        scratch = Path(folder)
        if any(s.is_calibrated for s in wanted):
            _write_calibration(source, calibration, scratch / "calibration", seed, report)
        write_arrays(scratch / "inputs.npz", random_inputs(source.inputs, seed))
        engines: dict[str, Engine] = {}
        ours = _compiled(source, wanted, goal, scratch, report, say)
        plan = Job(
            engine=OURS,
            precision="float32",
            model=str(Path(model).absolute()),
            inputs=str(scratch / "inputs.npz"),
            calibration=str(scratch / "calibration"),
            threads=threads,
            scratch=str(scratch),
            cpus=place.cpus,
        )
        for job in _jobs(plan, ours, against, wanted, peers_isa, place, report):
            say(f"starting {job.engine} {job.precision}")
            try:
                engine = place.start(job)
            except EngineFailed as e:
                if job.engine == OURS or job.precision == "float32":
                    raise
                report.append(f"left out: {e}")
                continue
            engines[f"{job.engine} {job.precision}"] = engine
            stack.callback(engine.close)
        say(f"timing {len(engines)} engines in turns")
        seconds = measure_interleaved({n: e.run for n, e in engines.items()}, rounds)
        report += busy_machine(tuple(engines.values()), len(place.cpus))
        times = tuple(_time(engines[n], seconds[n], seed) for n in engines)
        machine = place.machine
        peaks = None
        if peak or profile:
            peaks = measure_peaks((threads,), rounds=rounds or PEAK_ROUNDS, progress=say)
        profiles: tuple[Profile, ...] = ()
        if profile and peaks is not None:
            latency = {t.precision: t.latency_ms.value / 1e3 for t in times if t.engine == OURS}
            say(f"profiling {len(ours)} artifacts in turns")
            profiles = profile_artifacts(plan, ours, latency, peaks, rounds)
    return BenchResult(
        model=source.name,
        machine=machine,
        threads=threads,
        engines=times,
        report=tuple(report),
        profiles=profiles,
        peaks=peaks if peak else None,
    )


def _check(
    against: Sequence[str],
    threads: int,
    precisions: Sequence[str] | None,
    peers_isa: str | None,
    *,
    away: bool,
) -> None:
    """`away`: peers are wanted on another machine, which tells itself whether it has them."""
    if isinstance(against, str):
        raise InputError(f"against is a list of engine names, found the string {against!r}")
    peers = [name for name in ENGINES if name != OURS]
    for name in against:
        if name not in peers:
            raise InputError(f"unknown engine {name!r}; known are {', '.join(peers)}")
        if not away and not_installed(name):
            raise InputError(
                f"engine {name!r} is not installed; pip install 'lepton-tvm[peers]' brings it"
            )
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads must be a whole number of at least 1, found {threads!r}")
    if precisions is not None:
        known = [scheme.name for scheme in known_schemes()]
        if not precisions or not set(precisions).issubset(known):
            raise InputError(f"precisions are {', '.join(known)}, found {list(precisions)}")
    if peers_isa is not None and peers_isa not in ISAS:
        raise InputError(
            f"unknown instruction set {peers_isa!r} for peers: one of {', '.join(ISAS)}"
        )


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
    schemes: Sequence[Scheme],
    target: Target,
    scratch: Path,
    report: list[str],
    say: Callable[[str], None],
) -> dict[str, Path]:
    """Precision -> artifact, for those that the model can have."""
    from lepton_tvm.compiler.compile import compile as compile_model
    from lepton_tvm.compression.quantize import quantization_notes

    paths = {}
    for scheme in schemes:
        precision = scheme.name
        say(f"compiling {precision}")
        try:
            variant = _variant(model, scheme, scratch / "calibration", target)
        except InputError as e:
            # The data was checked when it was written, so this is about the model.
            report.append(f"left out: engine {OURS} ({precision}): {e}")
            continue
        report.extend(f"{OURS} {precision}: {note}" for note in quantization_notes(variant))
        paths[precision] = scratch / f"{precision}.so"
        compile_model(variant, target=target, output=paths[precision], db=False)
    return paths


def _variant(model: Model, scheme: Scheme, calibration: Path, target: Target) -> Model:
    from lepton_tvm.compression.quantize import quantize

    if not scheme.method:
        return model
    samples = _Stored(sorted(calibration.glob("*.npz"))) if scheme.is_calibrated else None
    return quantize(model, samples, method=scheme.method, target=target)


class _Stored:
    """Calibration files as samples that can be read again and are not held."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (read_arrays(str(f)) for f in self._files)


def _jobs(
    plan: Job,
    ours: Mapping[str, Path],
    against: Sequence[str],
    schemes: Sequence[Scheme],
    peers_isa: str | None,
    place: EnginePlace,
    report: list[str],
) -> Iterator[Job]:
    """One job for every engine and precision that can be; the report says what cannot."""
    for precision, path in ours.items():
        yield _job(plan, OURS, precision, model=str(path))
    for engine in dict.fromkeys(against):
        peer = ENGINES[engine]
        limit = peers_isa if peer.isa_limit is not None else None
        if peers_isa is not None and limit is None:
            report.append(f"engine {engine} has no switch for {peers_isa}: it chooses for itself")
        for scheme in schemes:
            reason = place.lacks(engine, scheme.name)
            if limit is not None and not scheme.runs_on(ISAS[limit]):
                reason = f"it is kept to {limit}, which has no {scheme.name}"
            if reason is None:
                yield _job(plan, engine, scheme.name, max_isa=limit)
            else:
                report.append(f"left out: engine {engine} ({scheme.name}): {reason}")


def _job(plan: Job, engine: str, precision: str, **changes: Any) -> Job:
    """`plan` for an engine and a precision, with a scratch folder of its own."""
    own = Path(plan.scratch) / f"{engine}_{precision}"
    own.mkdir()
    return replace(plan, engine=engine, precision=precision, scratch=str(own), **changes)


def _time(process: Engine, seconds: list[float], seed: int) -> EngineTime:
    return EngineTime(
        engine=process.job.engine,
        version=process.version,
        precision=process.job.precision,
        isa=process.isa,
        latency_ms=median_ci(seconds, seed=seed).scaled(1e3),
        samples_s=tuple(seconds),
    )
