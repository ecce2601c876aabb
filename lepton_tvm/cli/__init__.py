"""The command line `lepton-tvm`; nothing is imported before the chosen command needs it."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from lepton_tvm import __version__
from lepton_tvm.cli.command import new_app, set_debug

__all__ = ["app", "main"]

# In the order of `--help`; each is the `app` of the module of that name beside this one.
_COMMANDS = (
    "demo",
    "compile",
    "tune",
    "run",
    "compare",
    "bench",
    "inspect",
    "doctor",
    "db",
    "device",
)


class _Commands(Mapping[str, Any]):
    """Commands by name, each made of its module when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in _COMMANDS:
            raise KeyError(name)
        if name not in self._made:
            module = importlib.import_module(f"{__name__}.{name}")
            self._made[name] = typer.main.get_command(module.app)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _Group(typer.core.TyperGroup):
    """The root, which imports a command's module when the command is called or listed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Commands()  # type: ignore[assignment]


app = new_app(
    name="lepton-tvm",
    cls=_Group,
    help="Prune, quantize and compile ONNX models with Apache TVM, and measure the gain.",
    no_args_is_help=True,
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"lepton-tvm {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; allowed anywhere in the line.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options that stand before the command."""


def main() -> None:
    """Entry point of the console script: reads `sys.argv`, ends the process."""
    args = sys.argv[1:]
    debug = "--debug" in args or bool(os.environ.get("LEPTON_TVM_DEBUG"))
    set_debug(debug)
    sys.exit(_run([a for a in args if a != "--debug"]))


def _run(args: list[str]) -> int:
    """The exit code of a command line; what is wrong with its words is told as JSON, too."""
    try:
        return int(app(args=args, prog_name="lepton-tvm", standalone_mode=False) or 0)
    except typer.Abort:
        return 1
    except Exception as error:
        # click's, of whichever of its copies typer uses
        if not hasattr(error, "format_message") or not hasattr(error, "show"):
            raise
        error.show()
        code = int(getattr(error, "exit_code", 2))
        if "--json" in args:
            told = {"error": error.format_message(), "exit_code": code}
            print(json.dumps(told, indent=2))
        return code
