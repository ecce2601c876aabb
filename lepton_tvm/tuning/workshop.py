"""Where candidates are built and timed, and where trials are kept, while a search lasts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from lepton_tvm.db import Database, open_database
from lepton_tvm.errors import InputError, TargetError
from lepton_tvm.farm import Farm, artifacts_of, open_builder, open_runner
from lepton_tvm.targets import Target
from lepton_tvm.tuning.tune_options import TuneOptions
from lepton_tvm.workers import Builder, Runner
from lepton_tvm.workers.scratch_folders import Scratch

__all__ = ["Workshop", "check_runs_here", "open_workshop"]

# Another search gives a device back after its batch, `compare` and `bench` when they are done.
_BUSY_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What a search works with, for one target on one kind of machine.

    `folder` takes the arguments of kernels. `job_id` is that of the job in the database, and
    `hardware` the fingerprint of the machine that times are valid for. `told` is filled with what
    happens to devices.
    """

    target: Target
    database: Database
    builder: Builder
    runner: Runner
    folder: Path
    job_id: str
    hardware: str
    told: list[str]


@contextmanager
def open_workshop(
    target: Target,
    model: str,
    options: TuneOptions,
    *,
    db: str | PathLike[str] | Database | None,
    farm: Farm | None,
    builders: str | None,
) -> Iterator[Workshop]:
    """Open the database, the builder and the runner, and a job of it; all ends with the block.

    Raises InputError and TargetError where this machine is meant and has fewer CPUs or another
    instruction set, and what `open_database`, `open_builder` and `open_runner` raise.
    """
    if farm is None:
        _check_threads_here(options.threads)
    told: list[str] = []
    asked = {
        "model": model, "target": str(target), "trials": options.trials,
        "budget_s": options.budget, "threads": options.threads,
        "tracker": farm and farm.tracker, "key": farm and farm.key,
    }  # fmt: skip
    with _opened(db) as database, closing(Scratch()) as scratch:
        if farm is None:
            check_runs_here(target)
        with (
            closing(_runner(farm, options.threads, told.append)) as runner,
            closing(open_builder(builders)) as builder,
        ):
            database.check_writable()
            with database.job("tune", asked, {"search": options.seed}) as job:
                yield Workshop(
                    target=target, database=database, builder=builder, runner=runner,
                    folder=scratch.path, job_id=job.id, hardware=_hardware(target, runner),
                    told=told,
                )  # fmt: skip


def check_runs_here(target: Target) -> None:
    """Raise TargetError for a target whose kernels this machine cannot time."""
    if not target.is_native:
        raise TargetError(
            f"this machine cannot run code for {target}, so nothing can be timed here; use "
            "--tracker and --key to measure on devices that can"
        )


def _check_threads_here(threads: int) -> None:
    """Raise InputError for more threads than this machine has CPUs; devices say so themselves."""
    cpus = os.cpu_count() or 1
    if threads > cpus:
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


def _runner(farm: Farm | None, threads: int, say: Callable[[str], None]) -> Runner:
    return open_runner(farm, threads=threads, busy_s=_BUSY_S, say=say)


def _hardware(target: Target, runner: Runner) -> str:
    """The fingerprint of the runner's machine, with its GPU where that is timed."""
    if not target.on_gpu:
        return runner.hardware
    machine = next(artifacts_of(runner)).machine
    return machine.fingerprint_for(target.family)
