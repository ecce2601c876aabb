"""What all commands share: one JSON object or one table on stdout, one message and an exit code."""

from __future__ import annotations

import contextlib
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
from typing import IO, Any

import typer

from lepton_tvm.errors import LeptonError

__all__ = ["Output", "command", "progress", "set_debug"]

_debug = False


@dataclass(frozen=True)
class Output:
    """What a command answers: `data` for --json, `show` (a text or a rich renderable) for people.

    `code` is the exit code, `problem` the sentence for stderr where the code is not 0.
    """

    data: dict[str, Any]
    show: Any
    code: int = 0
    problem: str | None = None


def set_debug(on: bool) -> None:
    """Show tracebacks from now on."""
    global _debug
    _debug = on


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., Output]], Callable[..., None]]:
    """Register a function as a command that ends as design.md says, whatever happens inside.

    The function may have a parameter `as_json`. Everything that libraries print to stdout, native
    code too, goes to stderr, so that stdout holds the answer alone.
    """

    def register(function: Callable[..., Output]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            as_json = bool(kwargs.get("as_json"))
            with _own_stdout() as stdout:
                code = _answer(lambda: function(*args, **kwargs), as_json, stdout)
            raise typer.Exit(code)

        app.command(name, help=_help(function))(run)
        return run

    return register


@contextlib.contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr what is going on; the function that is given changes the text.

    A spinner on a terminal, one line per step elsewhere.
    """
    if not sys.stderr.isatty():

        def say(step: str) -> None:
            print(step, file=sys.stderr, flush=True)

        say(text)
        yield say
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield lambda step: status.update(step)


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
        _write(output.data if as_json else output.show, as_json, stdout)
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
        print(f"error: {output.problem}", file=sys.stderr)
    return output.code


def _fail(text: str, code: int, as_json: bool, stdout: IO[str]) -> int:
    if _debug:
        traceback.print_exc()
    print(f"error: {text}", file=sys.stderr)
    if as_json:
        _write({"error": text, "exit_code": code}, True, stdout)
    return code


def _write(answer: Any, as_json: bool, stdout: IO[str]) -> None:
    if as_json:
        print(json.dumps(_finite(answer), indent=2, allow_nan=False), file=stdout)
    elif isinstance(answer, str):
        print(answer, file=stdout)
    else:
        from rich.console import Console

        console = Console(file=stdout)
        if not console.is_terminal:
            console = Console(file=stdout, width=160)
        console.print(answer)
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


def _help(function: Callable[..., Any]) -> str:
    return inspect.cleandoc(function.__doc__ or "")
