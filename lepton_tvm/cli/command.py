"""Shared by all commands: one JSON object or table on stdout, one message, an exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any, get_type_hints

import typer

from lepton_tvm.cli.terminal import console, lines_of, printable
from lepton_tvm.errors import LeptonError

__all__ = ["Output", "command", "new_app", "progress", "set_debug", "warn"]

_debug = False


@dataclass(frozen=True)
class Output:
    """What a command answers: `data` for --json, `show` for people.

    `show` is a text, a rich renderable, or a function that makes one of them. `code` is the exit
    code, `problem` the sentence for stderr where the code is not 0.
    """

    data: dict[str, Any]
    show: Any
    code: int = 0
    problem: str | None = None


def new_app(**options: Any) -> typer.Typer:
    """A command, or a group of them, as all of ours are: help in plain text, errors in one line."""
    return typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **options
    )


def set_debug(on: bool) -> None:
    """Show tracebacks from now on."""
    global _debug
    _debug = on


def warn(text: str) -> None:
    """Print a warning on stderr; the command goes on."""
    print(f"warning: {lines_of(text)}", file=sys.stderr, flush=True)


def command(
    app: typer.Typer, name: str, *, example: str
) -> Callable[[Callable[..., Output]], Callable[..., None]]:
    """Register a function as a command with one answer on stdout and a fixed set of exit codes.

    `example` is a command line that ends the command's help. The function may have a parameter
    `as_json`. It may also have parameters that are dataclasses: their fields are options of the
    command, so that commands can share them. Everything that libraries print to stdout, native
    code too, goes to stderr.
    """

    def register(function: Callable[..., Output]) -> Callable[..., None]:
        signature, groups = _expanded(function)

        @functools.wraps(function)
        def run(**given: Any) -> None:
            as_json = bool(given.get("as_json"))
            for option, group in groups.items():
                fields = dataclasses.fields(group)
                given[option] = group(**{f.name: given.pop(f.name) for f in fields})
            with _own_stdout() as stdout:
                code = _answer(lambda: function(**given), as_json, stdout)
            raise typer.Exit(code)

        run.__signature__ = signature  # type: ignore[attr-defined]
        about = inspect.cleandoc(function.__doc__ or "")
        # \b: typer is not to break the line
        app.command(name, help=about, epilog=f"\b\nExample:\n  {example}")(run)
        return run

    return register


def _expanded(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, type[Any]]]:
    """A function's signature with the fields of dataclasses in their place, and the dataclasses."""
    found: list[inspect.Parameter] = []
    groups: dict[str, type[Any]] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            found.append(parameter)
            continue
        groups[parameter.name] = kind
        types = get_type_hints(kind, include_extras=True)
        fields = inspect.signature(kind).parameters.values()
        found += [f.replace(annotation=types[f.name]) for f in fields]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([p.replace(kind=keyword) for p in found]), groups


@contextlib.contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr what is going on; the function that is given changes the text.

    A spinner on a terminal, one line per step elsewhere.
    """
    if not sys.stderr.isatty():

        def say(step: str) -> None:
            print(lines_of(step), file=sys.stderr, flush=True)

        say(text)
        yield say
        return
    from rich.text import Text

    with console().status(Text(printable(text))) as status:
        yield lambda step: status.update(Text(printable(step)))


class _Interrupt:
    """Notes Ctrl-C while it is entered: inside TVM, KeyboardInterrupt turns into RuntimeError."""

    def __init__(self) -> None:
        self.came = False
        self._before: Any = None

    def __enter__(self) -> _Interrupt:
        # where it is ignored (a job in the background of a script), it stays so
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.default_int_handler(number, frame)


def _answer(work: Callable[[], Output], as_json: bool, stdout: IO[str]) -> int:
    with _Interrupt() as interrupt:
        return _worked(work, as_json, stdout, interrupt)


def _worked(
    work: Callable[[], Output], as_json: bool, stdout: IO[str], interrupt: _Interrupt
) -> int:
    stopped = "interrupted; nothing unfinished was kept"
    try:
        output = work()
        show = output.show() if callable(output.show) and not as_json else output.show
        _write(output.data if as_json else show, as_json, stdout)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(stopped, 1, as_json, stdout)
    except LeptonError as error:
        if interrupt.came:
            return _fail(stopped, 1, as_json, stdout)
        return _fail(str(error), error.exit_code, as_json, stdout)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        return 1
    except (typer.Exit, typer.BadParameter):
        raise
    except Exception as error:
        if interrupt.came:
            return _fail(stopped, 1, as_json, stdout)
        told = " ".join(str(error).split()) or "no message"
        text = f"unexpected {type(error).__name__}: {told[:600]}"
        hint = "" if _debug else " (run again with --debug for the traceback)"
        return _fail(text + hint, 1, as_json, stdout)
    if output.problem:
        print(f"error: {lines_of(output.problem)}", file=sys.stderr)
    return output.code


def _fail(text: str, code: int, as_json: bool, stdout: IO[str]) -> int:
    if _debug:
        traceback.print_exc()
    print(f"error: {lines_of(text)}", file=sys.stderr)
    if as_json:
        _write({"error": text, "exit_code": code}, True, stdout)
    return code


def _write(answer: Any, as_json: bool, stdout: IO[str]) -> None:
    if as_json:
        print(json.dumps(_finite(answer), indent=2, allow_nan=False), file=stdout)
    elif isinstance(answer, str):
        print(lines_of(answer), file=stdout)
    elif (screen := console(stdout)).is_terminal:
        screen.print(answer)
    else:
        paper = console(stdout, width=160)
        with paper.capture() as text:
            paper.print(answer)
        # rich fills lines with spaces up to the width of their table
        print("\n".join(line.rstrip() for line in text.get().splitlines()), file=stdout)
    stdout.flush()


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null (an SQNR of equal outputs is infinite)."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextlib.contextmanager
def _own_stdout() -> Iterator[IO[str]]:
    """Keep file descriptor 1 for the answer and send all other writers of it to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    stdout = os.fdopen(kept, "w", encoding="utf-8", closefd=False)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield stdout
    finally:
        with contextlib.suppress(BrokenPipeError):
            stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
