"""Ctrl-C in a search uses the best so far; an output that cannot be is told before it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_tvm import runtime
from lepton_tvm.demo.assets import model_path

LEPTON = [sys.executable, "-m", "lepton_tvm.cli"]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A search that would go on for long."""
    return [
        *LEPTON, "tune", str(model_path()), "--trials", "100000", "--patience", "0",
        "--db", f"sqlite:///{tmp_path / 'tune.db'}", "--json",
    ]  # fmt: skip


def test_ctrl_c_ends_the_search_and_uses_what_was_found(words: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*words, "-o", "tuned.so"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    while " trials/s" not in (line := process.stderr.readline()):
        assert line, "the command ended before it made a trial"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "ending the search: the best schedules so far are checked and used" in err
    told = json.loads(out)
    assert told["stopped"] == "interrupted"
    assert 0 < told["new_trials"] == told["trials"] < 100000
    assert runtime.load(tmp_path / "tuned.so").sha256 == told["sha256"]


def test_an_output_that_cannot_be_written_is_told_before_the_search(
    words: list[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [*words, "-o", "none/tuned.so"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "folder" in json.loads(done.stdout)["error"]
    assert "searching" not in done.stderr
    assert not (tmp_path / "tune.db").exists()
