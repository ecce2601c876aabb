"""The commands one by one, on inputs that need no compiler."""

from __future__ import annotations

import dataclasses
import shlex
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from tvm import relax

from lepton_tvm import cli
from lepton_tvm.cli.model_options import ModelOptions
from lepton_tvm.demo.assets import model_path
from lepton_tvm.errors import InputError
from lepton_tvm.frontend import save_model
from tests.support.command_line import Lepton
from tests.support.graphs import graph
from tests.support.networks import model_of

README = Path(__file__).resolve().parents[2] / "README.md"


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the app with the words that call it."""
    for name, item in group.commands.items():
        if hasattr(item, "commands"):
            yield from commands(item, (*words, name))
        else:
            yield (*words, name), item


ALL = dict(commands(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_help_and_stands_in_the_readme(words: tuple[str, ...]) -> None:
    item = ALL[words]
    assert len(item.help) > 20
    assert f"lepton-tvm {' '.join(words)}" in README.read_text(encoding="utf-8")
    options = [p for p in item.params if p.param_type_name == "option"]
    assert "--json" in {name for p in options for name in p.opts}
    assert all(getattr(p, "help", None) for p in item.params)


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_option_has_a_help_text_that_starts_with_a_capital_letter(
    words: tuple[str, ...], lepton: Lepton
) -> None:
    options = [p for p in ALL[words].params if p.param_type_name == "option"]
    assert [p.opts for p in options if not p.help[0].isupper()] == []
    assert "[default: ()]" not in lepton(*words, "--help").out


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_the_help_of_every_command_ends_with_an_example_that_it_accepts(
    words: tuple[str, ...], lepton: Lepton
) -> None:
    shown = lepton(*words, "--help").out.rstrip().splitlines()
    assert shown[-2] == "  Example:"
    example = shlex.split(shown[-1])
    assert example[: len(words) + 1] == ["lepton-tvm", *words]
    context = ALL[words].make_context(" ".join(words), example[len(words) + 1 :])
    assert context.params


def test_lists_of_commands_cut_no_sentence_short(lepton: Lepton) -> None:
    for group in ((), ("db",), ("device",)):
        listed = lepton(*group, "--help").out.partition("Commands:")[2]
        assert listed.count("\n") > 3
        assert "..." not in listed


def test_compile_and_tune_share_their_options() -> None:
    compile, tune = (
        {p.name: (p.opts, p.help) for p in ALL[word,].params} for word in ("compile", "tune")
    )
    shared = {f.name for f in dataclasses.fields(ModelOptions)}
    assert {"calib", "threads", "db"} <= shared
    assert {n: compile[n] for n in shared} == {n: tune[n] for n in shared}
    assert set(compile) - shared == {"tuned", "hardware", "dump", "as_json"}


def test_compile_takes_schedules_of_as_many_threads_as_asked(
    lepton: Lepton, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tuned_by(*_args: object, threads: int, **_options: object) -> None:
        raise InputError(f"schedules for {threads} threads")

    monkeypatch.setattr("lepton_tvm.compiler.compile.tuned_by", tuned_by)
    ended = lepton("compile", model_path(), "--threads", 3, "--target", "x86:avx2")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.endswith("error: schedules for 3 threads\n")
    assert "--threads" in lepton("compile", model_path(), "--threads", 0).err


@pytest.mark.parametrize("words", ["prune", "explain"])
def test_commands_of_later_are_absent(words: str, lepton: Lepton) -> None:
    ended = lepton(words)
    assert (ended.code, ended.out) == (2, "")
    assert f"No such command '{words}'" in ended.err


def test_version_is_the_packages(lepton: Lepton) -> None:
    ended = lepton("--version")
    project = README.with_name("pyproject.toml").read_text(encoding="utf-8")
    assert ended.code == 0
    assert f'version = "{ended.out.split()[1]}"' in project


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--quantize", "int4"), "--quantize 'int4' is not known: the choices are int8 and bf16"),
        (("--quantize", "int8"), "--quantize int8 needs --calib DATA"),
        (("--weight-bits", "6"), "--weight-bits '6' is not known: the choices are auto, 8 and 7"),
        (("--weight-bits", "8"), "--weight-bits is only used with --quantize int8"),
        (("--calib", "x.npz"), "--calib is only used with --quantize int8"),
        (("--shape", "x"), "--shape 'x' is not NAME=D,D,..."),
        (("--prune", "half"), "--prune 'half' is not METHOD:VALUE"),
        (("--dump", Path(__file__).parent), "the folder is not empty; name a new one"),
        (("--dump", __file__), "it is a file; name a folder"),
    ],
)
def test_compile_refuses_bad_options(args: tuple[str, ...], message: str, lepton: Lepton) -> None:
    ended = lepton("compile", model_path(), *args)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert list(Path().iterdir()) == []


def test_compile_dumps_the_module_after_every_phase(lepton: Lepton) -> None:
    small = graph(lambda x: relax.op.exp(x), x=(2, 8))
    save_model(model_of(small), "small.lepton")
    ended = lepton("compile", "small.lepton", "--target", "x86:avx2", "--dump", "phases")
    assert ended.code == 0, ended.err
    names = sorted(path.name for path in Path("phases").iterdir())
    assert names[:2] == ["01-lower-int8.py", "02-lower-kernels.py"]
    assert [name.partition("-")[0] for name in names] == [
        f"{n:02d}" for n in range(1, len(names) + 1)
    ]


@pytest.mark.parametrize("content", [None, b"", b"no zip", b"PK\x03\x04 cut short"])
def test_run_refuses_bad_npz(content: bytes | None, lepton: Lepton) -> None:
    if content is not None:
        Path("x.npz").write_bytes(content)
    ended = lepton("run", "missing.so", "--input", "x.npz")
    assert (ended.code, ended.out) == (2, "")
    assert "cannot read x.npz as .npz" in ended.err


def test_run_refuses_pickled_arrays(lepton: Lepton) -> None:
    np.savez("x.npz", x=np.array([{"a": 1}], dtype=object))
    ended = lepton("run", "missing.so", "--input", "x.npz")
    assert ended.code == 2
    assert "allow_pickle=False" in ended.err


def test_run_refuses_a_missing_artifact(lepton: Lepton) -> None:
    np.savez("x.npz", x=np.zeros(3, np.float32))
    ended = lepton("run", "missing.so", "--input", "x.npz", "--json")
    assert ended.code == 2
    assert ended.json == {"error": "artifact missing.so does not exist", "exit_code": 2}


def test_export_makes_no_database(lepton: Lepton) -> None:
    ended = lepton("db", "export", "x.zip")
    assert (ended.code, ended.out) == (2, "")
    assert "database sqlite:///lepton.db does not exist" in ended.err
    assert list(Path().iterdir()) == []


def test_db_round_trip(lepton: Lepton) -> None:
    from lepton_tvm.db import open_database

    tensor = [{"name": "x", "shape": [1, 2], "dtype": "float32"}]
    with open_database("sqlite:///one.db") as database:
        model = database.add_model("net", "ab" * 32, tensor, tensor)
    assert lepton("db", "show", "net", "--db", "one.db", "--json").json["id"] == model.id
    assert lepton("db", "export", "all.zip", "--db", "one.db", "--json").json["rows"] == 1
    assert zipfile.is_zipfile("all.zip")
    assert lepton("db", "import", "all.zip", "--db", "two.db", "--json").json["rows"] == 1
    listed = lepton("db", "list", "--db", "two.db", "--json").json
    assert [m["name"] for m in listed["models"]] == ["net"]
    assert "net" in lepton("db", "list", "--db", "two.db").out
    assert "model net" in lepton("db", "show", "net", "--db", "two.db").out
    why = lepton("db", "why", "net", "--target", "x86:avx2", "--db", "two.db", "--json").json
    assert (why["asked"]["target"].split()[0], why["kernels"]) == ("x86:avx2", [])
    assert lepton("db", "gc", "--db", "two.db").out == "0 files deleted, 0 bytes\n"
    nothing = lepton("db", "show", "other", "--db", "two.db")
    assert nothing.code == 2
    assert "is named 'other'; see lepton-tvm db list" in nothing.err
