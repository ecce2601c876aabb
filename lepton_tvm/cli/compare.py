"""`lepton-tvm compare`: re-run what the database holds, interleaved with its float baseline."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lepton_tvm.cli.options import Db, Json, Threads
from lepton_tvm.cli.session import Output, command, progress
from lepton_tvm.cli.tables import comparison_table

__all__ = ["register"]

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


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "compare")
    def compare(
        model: ModelKey = None,
        data: Data = None,
        threads: Threads = 1,
        fail_if_slower: FailIfSlower = None,
        db: Db = None,
        as_json: Json = False,
    ) -> Output:
        """Re-run stored variants against their float baseline: speed, accuracy, agreement, SQNR."""
        from lepton_tvm.compare import compare as run

        with progress("comparing"):
            table = run(model, db=db, data=data, threads=threads)
        result = table.to_json()
        code, problem = 0, None
        if fail_if_slower is not None:
            slow = too_slow(result, fail_if_slower)
            code, problem = (3, slow) if slow else (0, None)
        return Output(result, comparison_table(result), code, problem)


def too_slow(result: dict[str, Any], factor: float) -> str | None:
    """A sentence naming the variants that are not `factor` times as fast as the baseline."""
    slow = [
        f"{v['name']} is {v['speedup']['ratio']:.3f} times as fast"
        for v in result["variants"]
        if v["speedup"] and v["speedup"]["ratio"] < factor
    ]
    return f"{'; '.join(slow)}; asked for at least {factor:g}" if slow else None
