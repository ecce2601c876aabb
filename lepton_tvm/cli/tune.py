"""`lepton-tvm tune`: search schedules for a model, watch it, end and resume it at any time."""

from __future__ import annotations

from typing import Annotated

import typer

from lepton_tvm.cli.command import Output, command, new_app, progress
from lepton_tvm.cli.model_options import ModelOptions
from lepton_tvm.cli.options import FarmOptions, Json

__all__ = ["app"]

app = new_app()

_STOPPING = (
    "ending the search: the best schedules so far are checked and used; Ctrl-C again stops at "
    "once; the same command goes on later"
)

Trials = Annotated[
    int | None,
    typer.Option(
        "--trials",
        min=1,
        metavar="N",
        help="Run N trials in total for this model, target and machine, including earlier runs.",
        show_default="256; no limit with --budget",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="TIME",
        help="End the search after 90s, 10m, 1h, ...",
        show_default="no limit",
    ),
]
Builders = Annotated[
    str | None,
    typer.Option(
        "--builders",
        metavar="ADDRESS",
        help="Build kernels on the workers of a Dask scheduler (tcp://HOST:PORT).",
        show_default="this machine",
    ),
]
Patience = Annotated[
    int,
    typer.Option(
        "--patience",
        min=0,
        metavar="N",
        help="End the search when N trials in a row gained less than 0.1 %; 0: never.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed the search.")]


@command(app, "tune", example="lepton-tvm tune model.onnx --trials 256")
def tune_model(
    options: ModelOptions,
    trials: Trials = None,
    budget: Budget = None,
    *,
    farm: FarmOptions,
    builders: Builders = None,
    patience: Patience = 192,
    seed: Seed = 0,
    as_json: Json = False,
) -> Output:
    """Search faster schedules, here or on a farm; compile with them.

    Every finished trial is stored at once, so the same command resumes an interrupted run. Several
    runs may share one database. Ctrl-C ends the search and uses the best schedules so far; a second
    Ctrl-C stops at once.
    """
    from lepton_tvm.cli.tune_view import follow, result_table, stop_on_interrupt
    from lepton_tvm.targets import parse_target

    options.check()
    goal = parse_target(options.target)
    devices = farm.farm()
    if devices is not None:
        from lepton_tvm.farm.device_pool import farm_target

        goal = farm_target(options.target, devices)
    with progress(f"loading {options.model}") as say:
        from lepton_tvm.tuning import parse_budget, tune
        from lepton_tvm.tuning.workshop import check_runs_here

        parse_budget(budget)
        if devices is None:
            check_runs_here(goal)
        made = options.prepared(goal, say)
    with (
        follow(f"tuning {made.name} for {goal}") as on_status,
        stop_on_interrupt(_STOPPING) as stop,
    ):
        result = tune(
            made, target=goal, trials=trials, budget=budget, db=options.db, output=options.so,
            winograd=options.winograd, threads=options.threads, tracker=farm.tracker, key=farm.key,
            builders=builders, patience=patience or None, seed=seed, on_status=on_status,
            should_stop=stop,
        )  # fmt: skip
    return Output(result.to_json(), result_table(result))
