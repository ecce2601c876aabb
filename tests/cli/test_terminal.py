"""What is shown to people is what was written: no styles, no emojis, no control characters."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.table import Table

from lepton_tvm.cli.terminal import console
from lepton_tvm.demo import model_path
from lepton_tvm.frontend import load_model
from tests.support.artifact_file import make_artifact
from tests.support.command_line import Lepton

NAME = "a[bold]b[/x] :smile: "


def test_texts_of_others_are_shown_as_they_are() -> None:
    file = io.StringIO()
    table = Table("kernel", title=NAME)
    table.add_row(f"{NAME}\x1b[31m\tred")
    console(file, width=100).print(table)
    assert file.getvalue().count(NAME.strip()) == 2
    assert "\x1b" not in file.getvalue()


def test_inspect_of_a_strangers_artifact(lepton: Lepton) -> None:
    kernels = [{"name": f"conv[/x]\x1b]0;{i}", "op": "[red]"} for i in range(2)]
    make_artifact(Path("model.so"), name=f"{NAME}\x1b[2J", kernels=kernels)
    ended = lepton("inspect", "model.so")
    assert ended.code == 0, ended.err
    assert f"{NAME}\ufffd[2J" in ended.out
    assert "conv[/x]\ufffd]0;1" in ended.out
    assert "\x1b" not in ended.out


@pytest.mark.parametrize("name", [b"gr\xfc\xdf.onnx", b"net[/x", b"\x1b[31m.onnx"])
def test_errors_about_files_of_any_name(name: bytes, lepton: Lepton) -> None:
    path = Path(name.decode("utf-8", "surrogateescape"))
    ended = lepton("compile", path)
    assert ended.code == 2
    assert "the file does not exist" in ended.err
    assert "\x1b" not in ended.err


def test_inspect_of_a_file_whose_name_is_no_text(lepton: Lepton) -> None:
    path = Path(b"gr\xfc\xdf.onnx".decode("utf-8", "surrogateescape"))
    shutil.copy(model_path(), path)
    assert "Conv" in lepton("inspect", path).out
    assert lepton("inspect", path, "--json").json["file"] == str(path)
    assert load_model(path).name == "gr??"
