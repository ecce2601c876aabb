"""`tune`: search better schedules for the kernels of a model on the machine that is to run it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from lepton_tvm.artifact.writer import check_output
from lepton_tvm.compiler.compile import variant_name
from lepton_tvm.db import Database, open_database
from lepton_tvm.errors import DeviceError, InputError, TargetError
from lepton_tvm.farm import artifacts_of, open_builder, open_runner
from lepton_tvm.farm.device_pool import farm_target
from lepton_tvm.model import Model
from lepton_tvm.targets import Target, parse_target
from lepton_tvm.tuning.verdict import finish
from lepton_tvm.tuning.model_tuning import Limits, OnStatus, SearchRun
from lepton_tvm.tuning.tune_result import TuneResult
from lepton_tvm.workers import Builder, Runner
from lepton_tvm.workers.scratch_folders import Scratch

__all__ = ["check_runs_here", "parse_budget", "tune"]

_DEFAULT_TRIALS = 256
# Another search gives a device back after its batch, `compare` and `bench` when they are done.
_BUSY_S = 1800.0


def tune(
    model: Model,
    *,
    target: str | Target = "native",
    trials: int | None = None,
    budget: str | float | None = None,
    db: str | PathLike[str] | Database | None = None,
    output: str | Path | None = None,
    variant: str | None = None,
    winograd: bool = True,
    threads: int = 1,
    tracker: str | None = None,
    key: str | None = None,
    builders: str | None = None,
    patience: int | None = 192,
    seed: int = 0,
    on_status: OnStatus | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TuneResult:
    """Search better schedules for `model` on this machine, or on a device of a farm.

    `trials` is how many trials the database is to hold for the kernels of this model, target and
    machine (default 256, or no limit where a `budget` is given): what is there counts, so the same
    call goes on where the last one ended, whatever ended it. `budget` is a time for the search
    (lowering before and confirming after come on top): seconds, or text such as `90s`, `10m`, `1h`.
    The zero-trial schedules are trial 0 of each kernel. The best ones are timed again at the end,
    and the whole model in turns with its zero-trial self; where the tuned one is slower, the
    zero-trial schedules stay. The tuned artifact is stored as `compile` does, in the database and
    as `output`; later calls of `compile` use the same schedules.

    `threads` is how many threads kernels run on. `tracker` (HOST:PORT) and `key` name devices of a
    farm that time the kernels, `builders` a Dask scheduler whose workers build them. The search
    ends early when `patience` trials in a row brought less than 0.1 % (None: never). `on_status` is
    told how far the work is. `should_stop` is asked after every trial; True ends the search, and
    the best schedules so far are judged and used.

    Raises InputError for unusable options, ArtifactError for an output that cannot be written,
    TargetError where this machine cannot run the target's
    code and no tracker is given, CompileError, DatabaseError.
    """
    goal = parse_target(target) if tracker is None else farm_target(target, tracker, key)
    said: list[str] = []
    _check(model, trials, threads, seed, tracker)
    if output is not None:
        check_output(Path(output))
    seconds = parse_budget(budget)
    wanted = trials if trials is not None or seconds is not None else _DEFAULT_TRIALS
    with (
        _opened(db) as database,
        _scratch() as folder,
        _tools(goal, tracker, key, builders, threads, said.append) as (builder, runner),
    ):
        database.check_writable()
        options = {
            "model": model.name, "target": str(goal), "trials": wanted, "budget_s": seconds,
            "threads": threads, "tracker": tracker, "key": key,
        }  # fmt: skip
        with database.job("tune", options, {"search": seed}) as job:
            run = SearchRun(
                model, goal, database, builder, runner, folder, job.id,
                Limits(wanted, seconds, patience), threads, winograd, seed,
                on_status or (lambda status: None), should_stop or (lambda: False),
            )  # fmt: skip
            stopped = run.search()
            name = variant or variant_name(model)
            return _finished(run, stopped, output, name, said)


def _finished(
    run: SearchRun, stopped: str, output: str | Path | None, variant: str, said: list[str]
) -> TuneResult:
    """The outcome, judged on the first device that can: one may be lost or full."""
    problem: DeviceError | None = None
    for place in artifacts_of(run.runner):
        try:
            return finish(run, stopped, output, variant, place, list(dict.fromkeys(said)))
        except DeviceError as e:
            said.append(f"the whole model was not run on a device: {e}")
            problem = e
    raise DeviceError(
        f"no device could run the whole model ({problem}); all trials are stored: run the same "
        "command again to go on"
    )


def parse_budget(budget: str | float | None) -> float | None:
    """Seconds of `90`, `"90s"`, `"10m"` or `"1h"`; None of None. Raises InputError."""
    if budget is None:
        return None
    text = str(budget).strip()
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:])
    try:
        value = float(text[:-1] if unit else text) * (unit or 1.0)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"budget {budget!r} is not a time: give seconds, or 90s, 10m, 1h")
    return value


def check_runs_here(target: Target) -> None:
    """Raise TargetError for a target whose kernels this machine cannot time."""
    if not target.is_native:
        raise TargetError(
            f"this machine cannot run code for {target}, so nothing can be timed here; use "
            "--tracker and --key to measure on devices that can"
        )


def _check(model: Model, trials: int | None, threads: int, seed: int, tracker: str | None) -> None:
    if not isinstance(model, Model):
        raise InputError(
            f"tune takes a Model, found {type(model).__name__}; load_model makes one of a file"
        )
    for name, value, least in (("trials", trials, 1), ("threads", threads, 1), ("seed", seed, 0)):
        if value is not None and (type(value) is not int or value < least):
            raise InputError(f"{name} is {value!r}: it must be an int of at least {least}")
    cpus = os.cpu_count() or 1
    if tracker is None and threads > cpus:  # devices say themselves how many they give
        raise InputError(
            f"threads is {threads} and this machine has {cpus} CPUs: timings with more threads "
            f"than CPUs are meaningless; use at most {cpus}"
        )


@contextmanager
def _opened(db: str | PathLike[str] | Database | None) -> Iterator[Database]:
    if isinstance(db, Database):
        yield db
        return
    with open_database(db) as database:
        yield database


@contextmanager
def _scratch() -> Iterator[Path]:
    scratch = Scratch()
    try:
        yield scratch.path
    finally:
        scratch.close()


@contextmanager
def _tools(
    target: Target,
    tracker: str | None,
    key: str | None,
    builders: str | None,
    threads: int,
    say: Callable[[str], None],
) -> Iterator[tuple[Builder, Runner]]:
    if tracker is None:
        check_runs_here(target)
    runner = open_runner(tracker, key, threads=threads, busy_s=_BUSY_S, say=say)
    try:
        builder = open_builder(builders)
        try:
            yield builder, runner
        finally:
            builder.close()
    finally:
        runner.close()
