"""`lepton-tvm compare`: re-run what the database holds, interleaved with its float baseline."""

from __future__ import annotations

from typing import Annotated

import typer

from lepton_tvm.cli.command import Output, command, new_app, progress
from lepton_tvm.cli.options import Db, FarmOptions, Json, Threads
from lepton_tvm.errors import RequirementError

__all__ = ["app"]

app = new_app()

ModelKey = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="Needed where the database holds several models."),
]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="DATA", help="Labelled inputs: a .npz or module:function."),
]
FailIfSlower = Annotated[
    float | None,
    typer.Option(
        "--fail-if-slower",
        metavar="FACTOR",
        help="End with 3 where a variant is not at least FACTOR times as fast as the baseline.",
    ),
]
HistoryFlag = Annotated[
    bool,
    typer.Option(
        "--history", help="Run nothing: show the newest stored comparison of each machine."
    ),
]


@command(app, "compare")
def compare(
    model: ModelKey = None,
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

    Tells speed, accuracy, agreement and SQNR."""
    if history:
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
                tracker=farm.tracker,
                key=farm.key,
                fail_if_slower=fail_if_slower,
                progress=say,
            )
        except RequirementError as unmet:
            # What was measured is told all the same.
            result = unmet.comparison  # type: ignore[attr-defined]
            return Output(result.to_json(), result, unmet.exit_code, str(unmet))
    return Output(result.to_json(), result)
