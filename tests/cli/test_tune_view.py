"""What a person sees of a search."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from lepton_tvm.cli.tune_view import _picture, follow, result_table
from lepton_tvm.measure import Estimate
from lepton_tvm.tuning import Status, TaskResult, TuneResult


def kernel(name: str, speedup: float, calls: int = 1, decided: bool = True) -> TaskResult:
    decisions = {"unroll_depth": 2, "tile_rows": 7} if decided else {}
    return TaskResult(
        name, "conv2d", calls, 12, 3, 100.0, speedup, (speedup - 0.01, speedup + 0.01), decisions
    )


def status(phase: str = "searching", done: int = 40, wanted: int | None = 128) -> Status:
    return Status(
        phase, done, wanted, 65.0, 130.0, 3.2, 2.9, 6.25, 3,
        (kernel("light", 1.0), kernel("heavy", 1.25, calls=9)),
    )  # fmt: skip


def result(*kernels: TaskResult) -> TuneResult:
    estimate = Estimate(1.05, 1.04, 1.06)
    return TuneResult(
        "net", "int8", "x86:vnni", {}, "sqlite:///x.db", 1, 128, 100, 3, 20.0, 15.0, "trials",
        Path("int8.so"), "0" * 64, estimate, estimate, estimate, kernels, ("a note",),
    )  # fmt: skip


def drawn(what: object) -> str:
    stream = io.StringIO()
    Console(file=stream, width=160).print(what)
    return stream.getvalue()


def test_the_live_table_shows_the_heaviest_kernels_first_and_how_long_it_takes() -> None:
    lines = drawn(_picture("tuning net", status())).splitlines()
    assert lines[0].strip() == "tuning net: searching"
    assert lines[1].strip() == (
        "40 of 128 trials, 1 min 05 s so far, 6.2 trials/s, 3 failed, about 2 min 10 s left, "
        "kernels 3.200 ms with zero trials, 2.900 best"
    )
    assert [line.split()[0] for line in lines[2:5]] == ["kernel", "heavy", "light"]
    assert lines[3].split() == ["heavy", "9", "12", "3", "100.0", "80.0", "1.250"]


def test_elsewhere_than_on_a_terminal_it_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with follow("tuning net") as show:
        for done in range(5):
            show(status(done=done))
        show(status("confirming", wanted=None))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("tuning net: searching, 0 of 128 trials, ")
    assert lines[1].startswith("tuning net: confirming, 40 trials, ")


def test_the_outcome_lists_what_changed_largest_gain_first() -> None:
    made = result(kernel("a", 1.3), kernel("b", 1.2, calls=5), kernel("c", 1.0, decided=False))
    text = drawn(result_table(made))
    assert "2 of 3 kernels with another schedule" in text
    assert "1.050x [1.040, 1.060]" in text
    assert "a note" in text
    rows = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert rows == ["b", "a"]
    assert "tile_rows=7, unroll_depth=2" in text


def test_an_outcome_without_changes_is_a_sentence() -> None:
    text = result_table(result(kernel("c", 1.0, decided=False)))
    assert isinstance(text, str)
    assert text.endswith("a note")


def test_the_outcome_as_json_has_plain_values() -> None:
    made = result(kernel("a", 1.3)).to_json()
    assert made["speedup"] == {"ratio": 1.05, "ci95": [1.04, 1.06]}
    assert made["kernels"][0]["decisions"] == {"unroll_depth": 2, "tile_rows": 7}
    assert made["artifact"] == "int8.so"
