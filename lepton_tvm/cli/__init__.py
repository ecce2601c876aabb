"""The command line `lepton-tvm`; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from lepton_tvm import __version__
from lepton_tvm.cli import bench, compare, compile, db, demo, device, doctor, inspect, run, tune
from lepton_tvm.cli.session import set_debug

__all__ = ["app", "main"]

app = typer.Typer(
    name="lepton-tvm",
    help="Prune, quantize and compile ONNX models with Apache TVM, and prove what it brought.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"lepton-tvm {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere in the line.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Options that stand before the command."""


for part in (demo, compile, tune, run, compare, bench, inspect, doctor):
    part.register(app)
app.add_typer(db.app, name="db", help="Look into the database, move it, tidy it up.")
app.add_typer(device.app, name="device", help="Measure on other machines: serve, track, list.")


def main() -> None:
    """Entry point of the console script: reads `sys.argv`, ends the process."""
    args = sys.argv[1:]
    debug = "--debug" in args or bool(os.environ.get("LEPTON_TVM_DEBUG"))
    set_debug(debug)
    app(args=[a for a in args if a != "--debug"], prog_name="lepton-tvm")
