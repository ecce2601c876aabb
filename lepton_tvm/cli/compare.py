"""`lepton-tvm compare`: re-run what the database holds, interleaved with its float baseline."""

from __future__ import annotations

from typing import Annotated

import typer

from lepton_tvm.cli.command import Output, command, new_app, progress, warn
from lepton_tvm.cli.options import Db, FarmOptions, Json, Threads
from lepton_tvm.errors import InputError, RequirementError

__all__ = ["app"]

app = new_app()

ModelKey = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Name of a stored model, or the start of its id. Needed if there are several.",
        show_default=False,
    ),
]
OldModel = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME", help="Old spelling of the argument MODEL.", hidden=True
    ),
]
StoredTarget = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="T",
        help="Compare the artifacts for this target.",
        show_default="the one compiled last",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Measure accuracy on these labelled inputs: a .npz or module:function.",
    ),
]
FailIfSlower = Annotated[
    float | None,
    typer.Option(
        "--fail-if-slower",
        metavar="FACTOR",
        help="Exit with 3 if a variant is not FACTOR times as fast as the baseline.",
    ),
]
HistoryFlag = Annotated[
    bool,
    typer.Option(
        "--history", help="Show the newest stored comparison of each machine; run nothing."
    ),
]


@command(app, "compare", example="lepton-tvm compare model --data labelled.npz")
def compare(
    model: ModelKey = None,
    old_model: OldModel = None,
    target: StoredTarget = None,
    data: Data = None,
    threads: Threads = 1,
    fail_if_slower: FailIfSlower = None,
    history: HistoryFlag = False,
    *,
    farm: FarmOptions,
    db: Db = None,
    as_json: Json = False,
) -> Output:
    """Re-run stored variants against their float baseline.

    Reports speed, accuracy, agreement and SQNR."""
    if old_model is not None:
        warn("--model is an old spelling: write `lepton-tvm compare MODEL`")
        if model is not None:
            raise InputError(f"compare takes one model, found {model!r} and --model {old_model!r}")
        model = old_model
    if history:
        if target is not None:
            raise InputError("--history shows all targets: leave --target out")
        from lepton_tvm.compare import history as read

        found = read(model, db=db)
        return Output(found.to_json(), found)
    with progress("reading the database") as say:
        from lepton_tvm.compare import compare as run

        try:
            result = run(
                model,
                db=db,
                data=data,
                threads=threads,
                target=target,
                tracker=farm.tracker,
                key=farm.key,
                fail_if_slower=fail_if_slower,
                progress=say,
            )
        except RequirementError as unmet:
            # The measured figures are shown all the same.
            if unmet.comparison is None:
                raise
            result = unmet.comparison
            return Output(result.to_json(), result, unmet.exit_code, str(unmet))
    return Output(result.to_json(), result)
