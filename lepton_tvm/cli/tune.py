"""`lepton-tvm tune`: search schedules for a model, watch it, end and resume it at any time."""

from __future__ import annotations

from typing import Annotated

import typer

from lepton_tvm.cli.model_options import (
    Calib,
    Calibrator,
    ModelFile,
    Prune,
    Quantize,
    SoFile,
    WeightBits,
    Winograd,
    check_options,
    prepared_model,
)
from lepton_tvm.cli.options import Db, Json, Shapes, Target, Threads
from lepton_tvm.cli.session import Output, command, progress
from lepton_tvm.cli.tune_view import follow, result_table
from lepton_tvm.errors import InputError
from lepton_tvm.targets import parse_target

__all__ = ["register"]

Trials = Annotated[
    int | None,
    typer.Option(
        "--trials",
        min=1,
        metavar="N",
        help="How many trials the database is to hold for this model, target and machine; those "
        "that are there count. Default: 256, or no limit with --budget.",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option("--budget", metavar="TIME", help="End the search after 90s, 10m, 1h, ..."),
]
Tracker = Annotated[
    str | None,
    typer.Option(
        "--tracker", metavar="HOST:PORT", help="Time kernels on devices of this RPC tracker."
    ),
]
Key = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Which devices of the tracker to use.")
]
Builders = Annotated[
    str | None,
    typer.Option(
        "--builders",
        metavar="ADDRESS",
        help="Build kernels on the workers of a Dask scheduler (tcp://HOST:PORT); default: here.",
    ),
]
Patience = Annotated[
    int,
    typer.Option(
        "--patience",
        min=0,
        metavar="N",
        help="End the search early when N trials in a row brought less than 0.1 %; 0: never.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the search.")]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "tune")
    def tune_model(
        model: ModelFile,
        output: SoFile = None,
        shape: Shapes = None,
        target: Target = "native",
        trials: Trials = None,
        budget: Budget = None,
        prune: Prune = None,
        quantize: Quantize = None,
        calib: Calib = None,
        calibrator: Calibrator = "minmax",
        weight_bits: WeightBits = None,
        winograd: Winograd = True,
        threads: Threads = 1,
        tracker: Tracker = None,
        key: Key = None,
        builders: Builders = None,
        patience: Patience = 192,
        seed: Seed = 0,
        db: Db = None,
        as_json: Json = False,
    ) -> Output:
        """Search faster schedules on this machine or on devices of a farm, and compile with them.

        Every finished trial is in the database at once. However a run ends, the same command goes
        on with the trials that remain, and several may run at the same time on one database.
        """
        steps = check_options(prune, quantize, calib, weight_bits)
        if (tracker is None) != (key is None):
            raise InputError("--tracker and --key belong together: give both or none")
        goal = parse_target(target)
        if tracker is not None:
            from lepton_tvm.device.farm import farm_target

            goal = farm_target(target, tracker, key)
        with progress(f"loading {model}") as say:
            from lepton_tvm.tuning import parse_budget, tune

            parse_budget(budget)
            made = prepared_model(
                model, goal, say, shape=shape, steps=steps, quantize=quantize, calib=calib,
                calibrator=calibrator, weight_bits=weight_bits,
            )  # fmt: skip
        with follow(f"tuning {made.name} for {goal}") as on_status:
            result = tune(
                made, target=goal, trials=trials, budget=budget, db=db,
                output=output or model.with_suffix(".so"), winograd=winograd, threads=threads,
                tracker=tracker, key=key, builders=builders, patience=patience or None,
                seed=seed, on_status=on_status,
            )  # fmt: skip
        return Output(result.to_json(), result_table(result))
