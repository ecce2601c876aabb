"""Running a benchmark: compile, start every engine, time them in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_tvm.bench.bench_options import BenchOptions
from lepton_tvm.bench.bench_result import BenchResult, EngineTime
from lepton_tvm.bench.engine_places import Engine, EnginePlace, busy_machine, engine_place
from lepton_tvm.bench.engine_process import EngineFailed
from lepton_tvm.bench.engines import ENGINES, OURS, Job
from lepton_tvm.bench.kernel_times import profile_artifacts
from lepton_tvm.bench.own_artifacts import compile_schemes, write_calibration
from lepton_tvm.bench.wanted_schemes import wanted_schemes
from lepton_tvm.errors import InputError
from lepton_tvm.farm import Farm
from lepton_tvm.farm.device_pool import farm_target
from lepton_tvm.measure import Rounds, measure_interleaved, median_ci
from lepton_tvm.measure.kernel_profile import Profile
from lepton_tvm.measure.peak.measure_peak import ROUNDS as PEAK_ROUNDS
from lepton_tvm.measure.peak.measure_peak import measure_peaks
from lepton_tvm.measure.peak.peak_result import Peaks
from lepton_tvm.measure.timing_inputs import random_inputs, write_arrays
from lepton_tvm.model import Model
from lepton_tvm.targets import ISAS, Target, parse_target

if TYPE_CHECKING:
    from lepton_tvm.passes.quantize.schemes import Scheme

__all__ = ["bench"]


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
    of `PRECISIONS`; by default float32, int8, and bfloat16 where `target` has it. int8 is
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
    options = BenchOptions(
        against=against, threads=threads, precisions=precisions, peers_isa=peers_isa,
        profile=profile, peak=peak, farm=Farm.of(tracker, key), rounds=rounds, seed=seed,
    )  # fmt: skip
    farm = options.farm
    goal = parse_target(target) if farm is None else farm_target(target, farm)
    wanted = wanted_schemes(options.precisions, goal)
    source = _float_model(model, shapes)
    say = progress or (lambda _text: None)
    with (
        tempfile.TemporaryDirectory(prefix="lepton_tvm_bench_") as folder,
        engine_place(farm, threads) as place,
    ):
        work = _Bench(options, source, goal, wanted, place, Path(folder), say)
        return work.result(Path(model), calibration)


def _float_model(path: str | Path, shapes: Mapping[str, Sequence[int]] | None) -> Model:
    """The model of a file. Raises InputError where it is not a float model."""
    from lepton_tvm.frontend import load_model

    source = load_model(path, shapes=shapes)
    if source.is_quantized:
        raise InputError(
            f"model {source.name} is {source.precision} already: bench takes a float model and "
            "makes the other precisions of it; compile this one and run `compare`"
        )
    return source


@dataclass(frozen=True)
class _Bench:
    """A benchmark of one model on one place; `scratch` takes files, `report` what was left out."""

    options: BenchOptions
    source: Model
    target: Target
    schemes: tuple[Scheme, ...]
    place: EnginePlace
    scratch: Path
    say: Callable[[str], None]
    report: list[str] = field(default_factory=list)

    def result(self, path: Path, calibration: Any) -> BenchResult:
        """Compile, time all engines in turns, then profile where that was asked for."""
        ours = self._compiled(calibration)
        plan = self._plan(path)
        with ExitStack() as stack:
            times = self._times(self._started(stack, plan, ours))
            machine = self.place.machine
            peaks = self._peaks()
            profiles = self._profiles(plan, ours, times, peaks)
        return BenchResult(
            model=self.source.name,
            machine=machine,
            threads=self.options.threads,
            engines=times,
            report=tuple(self.report),
            profiles=profiles,
            peaks=peaks if self.options.peak else None,
        )

    def _compiled(self, calibration: Any) -> dict[str, Path]:
        """Our artifacts by precision; the inputs of all engines are written beside them."""
        seed, scratch = self.options.seed, self.scratch
        if any(scheme.is_calibrated for scheme in self.schemes):
            folder = scratch / "calibration"
            write_calibration(self.source, calibration, folder, seed, self.report)
        write_arrays(scratch / "inputs.npz", random_inputs(self.source.inputs, seed))
        return compile_schemes(
            self.source, self.schemes, self.target, scratch, self.report, self.say
        )

    def _plan(self, path: Path) -> Job:
        """The job that those of all engines are made of."""
        return Job(
            engine=OURS,
            precision="float32",
            model=str(path.absolute()),
            inputs=str(self.scratch / "inputs.npz"),
            calibration=str(self.scratch / "calibration"),
            threads=self.options.threads,
            scratch=str(self.scratch),
            cpus=self.place.cpus,
        )

    def _started(self, stack: ExitStack, plan: Job, ours: Mapping[str, Path]) -> dict[str, Engine]:
        """The engines by what they are called in turns; `stack` closes them."""
        engines: dict[str, Engine] = {}
        for job in self._jobs(plan, ours):
            self.say(f"starting {job.engine} {job.precision}")
            try:
                engine = self.place.start(job)
            except EngineFailed as e:
                if job.engine == OURS or job.precision == "float32":
                    raise
                self.report.append(f"left out: {e}")
                continue
            engines[f"{job.engine} {job.precision}"] = engine
            stack.callback(engine.close)
        return engines

    def _times(self, engines: Mapping[str, Engine]) -> tuple[EngineTime, ...]:
        self.say(f"timing {len(engines)} engines in turns")
        runs = {name: engine.run for name, engine in engines.items()}
        seconds = measure_interleaved(runs, self.options.rounds)
        self.report.extend(busy_machine(tuple(engines.values()), len(self.place.cpus)))
        return tuple(_time(engines[n], seconds[n], self.options.seed) for n in engines)

    def _peaks(self) -> Peaks | None:
        options = self.options
        if not (options.peak or options.profile):
            return None
        rounds = options.rounds or PEAK_ROUNDS
        return measure_peaks((options.threads,), rounds=rounds, progress=self.say)

    def _profiles(
        self,
        plan: Job,
        ours: Mapping[str, Path],
        times: Sequence[EngineTime],
        peaks: Peaks | None,
    ) -> tuple[Profile, ...]:
        if not self.options.profile or peaks is None:
            return ()
        latency = {t.precision: t.latency_ms.value / 1e3 for t in times if t.engine == OURS}
        self.say(f"profiling {len(ours)} artifacts in turns")
        return profile_artifacts(plan, ours, latency, peaks, self.options.rounds)

    def _jobs(self, plan: Job, ours: Mapping[str, Path]) -> Iterator[Job]:
        """One job for every engine and precision that can be; the report says what cannot."""
        for precision, path in ours.items():
            yield _job(plan, OURS, precision, model=str(path))
        for engine in dict.fromkeys(self.options.against):
            yield from self._peer_jobs(plan, engine)

    def _peer_jobs(self, plan: Job, engine: str) -> Iterator[Job]:
        asked = self.options.peers_isa
        limit = asked if ENGINES[engine].isa_limit is not None else None
        if asked is not None and limit is None:
            self.report.append(f"engine {engine} has no switch for {asked}: it chooses for itself")
        for scheme in self.schemes:
            reason = self.place.lacks(engine, scheme.name)
            if limit is not None and not scheme.runs_on(ISAS[limit]):
                reason = f"it is kept to {limit}, which has no {scheme.name}"
            if reason is None:
                yield _job(plan, engine, scheme.name, max_isa=limit)
            else:
                self.report.append(f"left out: engine {engine} ({scheme.name}): {reason}")


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
