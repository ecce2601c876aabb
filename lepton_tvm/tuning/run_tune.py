"""`tune`: search better schedules for the kernels of a model on the machine that is to run it."""

from __future__ import annotations

import time
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from lepton_tvm.artifact.writer import check_output
from lepton_tvm.compiler.compile import variant_name
from lepton_tvm.db import Database
from lepton_tvm.errors import DeviceError, InputError
from lepton_tvm.farm import Farm, artifacts_of
from lepton_tvm.farm.device_pool import farm_target
from lepton_tvm.model import Model
from lepton_tvm.targets import Target, parse_target
from lepton_tvm.tuning.batches import run_batches
from lepton_tvm.tuning.model_tuning import ModelTuning, begin
from lepton_tvm.tuning.progress import OnStatus, Progress, say_lowering
from lepton_tvm.tuning.tune_options import TuneOptions, parse_budget
from lepton_tvm.tuning.tune_result import TuneResult
from lepton_tvm.tuning.verdict import finish
from lepton_tvm.tuning.workshop import Workshop, open_workshop

__all__ = ["tune"]

_DEFAULT_TRIALS = 256


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
    TargetError where this machine cannot run the target's code and no tracker is given,
    CompileError, DatabaseError.
    """
    farm = Farm.of(tracker, key)
    goal = parse_target(target) if farm is None else farm_target(target, farm)
    options = _options(
        model, trials=trials, budget=parse_budget(budget), patience=patience, threads=threads,
        winograd=winograd, seed=seed, variant=variant, output=output,
    )  # fmt: skip
    with open_workshop(goal, model.name, options, db=db, farm=farm, builders=builders) as shop:
        tell = on_status or (lambda status: None)
        return _tuned(model, options, shop, tell, should_stop or (lambda: False))


def _options(
    model: Model,
    *,
    trials: int | None,
    budget: float | None,
    variant: str | None,
    output: str | Path | None,
    **others: Any,
) -> TuneOptions:
    """The options as one value; the output can be written."""
    if not isinstance(model, Model):
        raise InputError(
            f"tune takes a Model, found {type(model).__name__}; load_model makes one of a file"
        )
    options = TuneOptions(
        trials=_DEFAULT_TRIALS if trials is None and budget is None else trials,
        budget=budget,
        variant=variant or variant_name(model),
        output=None if output is None else Path(output),
        **others,
    )
    if options.output is not None:
        check_output(options.output)
    return options


def _tuned(
    model: Model,
    options: TuneOptions,
    shop: Workshop,
    tell: OnStatus,
    should_stop: Callable[[], bool],
) -> TuneResult:
    """Lower, search, and judge what was found."""
    started = time.monotonic()
    say_lowering(tell, options.trials)
    tuning = begin(model, options, shop)
    progress = Progress(tuning.search, options, tell, started)
    stopped = run_batches(tuning, progress, should_stop)
    tuning.save_cost_model(progress.new)
    return _judged(tuning, progress, stopped)


def _judged(tuning: ModelTuning, progress: Progress, stopped: str) -> TuneResult:
    """The verdict, given on the first device that can: one may be lost or full."""
    problem: DeviceError | None = None
    told = tuning.shop.told
    for place in artifacts_of(tuning.shop.runner):
        try:
            return finish(tuning, progress, stopped, place, list(dict.fromkeys(told)))
        except DeviceError as e:
            told.append(f"the whole model was not run on a device: {e}")
            problem = e
    raise DeviceError(
        f"no device could run the whole model ({problem}); all trials are stored: run the same "
        "command again to go on"
    )
