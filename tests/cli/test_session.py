"""Whatever a command does, it ends with one answer, one message and the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from rich.table import Table

from lepton_tvm.cli.command import Output, command, set_debug
from lepton_tvm.errors import CompileError, InputError, RequirementError


def end(
    work: Callable[[], Output], capfd: pytest.CaptureFixture[str], *args: str
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of an app whose one command does `work`."""
    app = typer.Typer()

    @command(app, "only", example="only --json")
    def only(as_json: bool = typer.Option(False, "--json")) -> Output:
        """Do it."""
        return work()

    with pytest.raises(SystemExit) as caught:
        app(args=list(args))
    out, err = capfd.readouterr()
    return int(caught.value.code or 0), out, err


def fails(error: BaseException) -> Callable[[], Output]:
    """A command body that raises."""

    def work() -> Output:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("bad"), 2), (CompileError("bad"), 1), (RequirementError("bad"), 3)],
)
def test_errors_of_ours_are_one_message(
    error: Exception, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert end(fails(error), capfd) == (code, "", "error: bad\n")


def test_errors_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = end(fails(InputError("bad")), capfd, "--json")
    assert (code, err) == (2, "error: bad\n")
    assert json.loads(out) == {"error": "bad", "exit_code": 2}


def test_other_errors_name_debug(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = end(fails(ZeroDivisionError("a\nb")), capfd)
    assert (code, out) == (1, "")
    assert err == (
        "error: unexpected ZeroDivisionError: a b (run again with --debug for the traceback)\n"
    )


@dataclass(frozen=True)
class Shared:
    """Options of several commands."""

    name: Annotated[str, typer.Argument(help="Whose.")]
    number: Annotated[int, typer.Option("--number", help="How many.")] = 3


def test_options_that_commands_share(capfd: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @command(app, "only", example="only --json")
    def only(shared: Shared, as_json: Annotated[bool, typer.Option("--json")] = False) -> Output:
        """Do it."""
        return Output({}, f"{shared.name} {shared.number} {as_json}")

    for args, answer in ((["a"], "a 3 False"), (["--number", "4", "b"], "b 4 False")):
        with pytest.raises(SystemExit):
            app(args=args)
        assert capfd.readouterr().out == f"{answer}\n"


def test_debug_shows_the_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    set_debug(True)
    try:
        code, _, err = end(fails(InputError("bad")), capfd)
    finally:
        set_debug(False)
    assert code == 2
    assert "Traceback" in err
    assert err.endswith("error: bad\n")


def test_interrupt_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = end(fails(KeyboardInterrupt()), capfd)
    assert (code, out, err) == (1, "", "error: interrupted; nothing unfinished was kept\n")


def test_requirement_not_met_keeps_the_answer(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = end(lambda: Output({"a": 1}, "text", 3, "too slow"), capfd, "--json")
    assert (code, json.loads(out), err) == (3, {"a": 1}, "error: too slow\n")


def test_json_has_no_nan(capfd: pytest.CaptureFixture[str]) -> None:
    answer = Output({"a": [float("inf"), {"b": float("nan")}], "c": 1.5}, "")
    _, out, _ = end(lambda: answer, capfd, "--json")
    assert json.loads(out) == {"a": [None, {"b": None}], "c": 1.5}


def test_tables_end_where_their_text_ends(capfd: pytest.CaptureFixture[str]) -> None:
    table = Table("a", "b", box=None)
    table.add_row("long", "")
    table.add_row("x", "y")
    code, out, _ = end(lambda: Output({}, lambda: table), capfd)
    assert (code, out) == (0, " a     b\n long\n x     y\n")


def test_chatter_of_libraries_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> Output:
        print("from Python")
        os.write(1, b"from native code\n")
        return Output({}, "answer")

    code, out, err = end(work, capfd)
    assert (code, out) == (0, "answer\n")
    assert "from Python\n" in err
    assert "from native code\n" in err


def test_closed_pipe_is_no_traceback() -> None:
    line = f"{sys.executable} -m lepton_tvm.cli doctor | true"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tune", "m.onnx", "--trials", "0"], "--trials"),
        (["compile"], "MODEL"),
        (["compile", "m.onnx", "--no-such-option"], "--no-such-option"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_a_wrong_command_line_answers_json_too(words: list[str], told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lepton_tvm.cli", *words, "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    answer = json.loads(done.stdout)
    assert answer["exit_code"] == 2
    assert told in answer["error"]
    assert told in done.stderr
    assert "Traceback" not in done.stderr
