"""What `db list`, `db show` and `db why` show to people, in terminals of 80 and 160 columns."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lepton_tvm.cli.db_misses import misses_text
from lepton_tvm.cli.db_overview import overview_text
from lepton_tvm.cli.db_record import record_text
from lepton_tvm.cli.db_view import Machines
from lepton_tvm.db import Database, Evaluation, TrialKey, Winner, open_database
from lepton_tvm.db.views.find_record import find
from lepton_tvm.db.views.overview import overview
from lepton_tvm.db.views.why import explain
from tests.db.contract import measurement, trial
from tests.db.summary_contract import ASKED, fill
from tests.support.artifact_file import make_artifact

EPYC = "AMD EPYC 7763 64-Core Processor with a name that goes on"
LONG = "a model with a name as long as those that exporters give, [red]and a bit[/red]"


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Database]:
    """Two models: one tuned, with odd names; one with artifacts timed on two machines."""
    with open_database(str(tmp_path / "some.db")) as database:
        keys = fill(database, 70, kernels=5)
        other = dataclasses.replace(
            keys[0], target="arm:cortex-a76 cores=64 threads=16", hardware="cpu1" * 4,
        )  # fmt: skip
        won = trial(other, error="a line\nand \x1b[31manother", state="wrong", median=2e-6)
        database.tuning.add_trials([won])
        database.tuning.add_winners(
            [Winner(other, won.id, won.candidate, won.decisions, 1.5, (1.4, 1.6))]
        )
        for isa in ("avx2", "sse"):
            file = make_artifact(tmp_path / "model.so", name=LONG, isa=isa, source_sha256="f" * 64)
            stored = database.add_artifact(file)
        here = measurement(stored.sha256)
        there = dataclasses.replace(
            here, hardware="cpu2" * 4, machine={"cpu": EPYC}, id="9" * 32, median_s=7e-3
        )
        seen = Evaluation("r" * 32, stored.sha256, None, "d" * 64, 10, "top-1", 0.9, 0.8, 30.0)
        database.add_results([here, there], [seen])
        with database.job("tune", {"model": "net"}):
            pass
        yield database


def printed(text: Any, width: int) -> str:
    """The text as a terminal of that width has it, without its styles."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(text)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert all(c.isprintable() for line in lines for c in line)
    return "\n".join(lines)


@pytest.mark.parametrize("width", [80, 160])
def test_list(width: int, filled: Database) -> None:
    text = printed(overview_text(overview(filled)), width)
    lines = text.splitlines()
    assert LONG in lines[0]
    (row,) = [line for line in lines if " x86:avx2  0.00 " in line]
    assert row.split() == [filled.artifacts()[1].sha256[:12], "float32", "x86:avx2", "0.00",
                           "7.000", "A", "1"]  # fmt: skip
    assert lines[lines.index(row) + 1].split() == ["2.000", "B"]
    assert f"A = {'cpu2' * 4}, {EPYC}" in lines
    (tuned,) = [line for line in lines if line.startswith("  arm:cortex-a76 cores=64 threads=16 ")]
    assert tuned.split()[-5:] == ["C", "1", "1", "1", "1"]
    assert [line.split()[-5:] for line in lines if line.startswith("  x86:avx2 ")] == [
        ["B", "5", "70", "10", "1"]
    ]
    assert "all tuned with TVM 0.27.0" in lines
    assert "2 models, 5 kernels, 71 trials, 1 job;" in " ".join(lines)


def test_list_tells_what_is_left_out(filled: Database) -> None:
    text = printed(overview_text(overview(filled, (1, 0))), 80)
    assert "2 models (1 not shown: --limit, --offset)" in text.replace("\n", " ")


@pytest.mark.parametrize("width", [80, 160])
def test_show_a_model(width: int, filled: Database) -> None:
    text = printed(record_text(find(filled, "big")), width)
    assert text.startswith("model big\n  id ")
    assert "tuned for x86:avx2 on B\n  TVM  0.27.0, schedules 1" in text
    assert "tuned for arm:cortex-a76 cores=64 threads=16 on A" in text
    (row,) = [line for line in text.splitlines() if line.endswith(" 1.500")]
    assert row.split()[:2] == ["conv0", "0" * 8]


@pytest.mark.parametrize("width", [80, 160])
def test_show_a_kernel(width: int, filled: Database) -> None:
    text = printed(record_text(find(filled, "conv0", (3, 0))), width)
    assert "  14 trials, 11 not shown\n" in text
    (won,) = filled.tuning.trials(*filled.tuning.keys(hardware="cpu1" * 4))
    assert f"  the winner, trial {won.id[:12]}, is 1.500 times as fast (1.400 to 1.600)\n" in text
    assert "a line and \ufffd[31manother" in text


def test_show_an_artifact_a_job_and_a_trial(filled: Database) -> None:
    artifact = printed(record_text(find(filled, filled.artifacts()[1].sha256[:12])), 80)
    assert "7.000        3        1  cpu2cpu2cpu2cpu2  AMD EPYC" in artifact
    assert "top-1   0.9000     0.8000     30.0" in artifact
    (job,) = filled.jobs()
    data = find(filled, job.id)
    assert (data["kind"], data["job_kind"]) == ("job", "tune")
    assert '{"model": "net"}' in printed(record_text(data), 80)
    tried = printed(record_text(find(filled, f"{5:032x}")), 80)
    assert "  kernel       " + "0" * 63 in tried


@pytest.mark.parametrize("width", [80, 160])
def test_why(width: int, filled: Database) -> None:
    asked = {**ASKED, "hardware": "cpu7", "tvm_version": "0.28"}
    kernels = [e.to_json() for e in explain(filled, "big", lambda h, _: TrialKey(h, **asked))]
    text = printed(misses_text({"asked": asked, "kernels": kernels}), width)
    assert text.startswith("0 of 5 kernels have a record for\n  target            x86:avx2\n")
    assert "\n4 kernels: records differ in\n  hardware: stored cpu0 (test), asked cpu7" in text
    assert "\n1 kernel: records differ in\n" in text
    for name in ("conv1 (000000000000)", "conv4 (000000000000)"):
        assert name in " ".join(text.split())


def test_letters_of_many_machines() -> None:
    machines = Machines({})
    letters = [machines[f"m{i}"] for i in range(60)]
    assert len(set(letters)) == 60
    assert (letters[0], letters[26], machines["m0"]) == ("A", "A1", "A")
    assert len(machines.legend()) == 60
