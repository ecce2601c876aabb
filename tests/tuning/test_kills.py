"""`lepton-tvm tune` is killed, twice at once, and taken up again: nothing finished is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from lepton_tvm.db import open_database

TRIALS = 36
_PATIENCE_S = 120.0

Rows = dict[str, tuple[object, ...]]


def rows(url: str) -> Rows:
    """Every stored trial by its id."""
    with open_database(url) as database, database.reading() as reading:
        found = reading.execute(
            sa.text("SELECT id, key_id, candidate, state, median_s, reference_s FROM trials")
        )
        return {str(row[0]): tuple(row[1:]) for row in found}


def start(model: Path, url: str, folder: Path, name: str) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "lepton_tvm.cli", "tune", str(model), "--trials", str(TRIALS),
        "--db", url, "-o", str(folder / f"{name}.so"), "--json",
    ]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(url: str, count: int, process: subprocess.Popen[str]) -> Rows:
    """What is stored as soon as there are `count` trials."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        found = rows(url)
        if len(found) >= count or process.poll() is not None:
            return found
        time.sleep(0.05)
    raise AssertionError(f"there are no {count} trials after {_PATIENCE_S} s")


def children(pid: int) -> list[int]:
    """The processes of the session that `pid` leads, but for itself."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != pid:
            try:
                if os.getsid(int(entry.name)) == pid:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, url: str) -> str:
    """A fresh database of either kind."""
    if request.param == "sqlite":
        return url
    return str(request.getfixturevalue("postgres_url"))


def test_killed_at_any_moment_it_goes_on_where_it_was(
    model_file: Path, place: str, tmp_path: Path
) -> None:
    before: Rows = {}
    for count in (1, 20):
        process = start(model_file, place, tmp_path, f"killed{count}")
        wait_for(place, count, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        after = rows(place)
        assert {key: after.get(key) for key in before} == before
        assert len({row[:2] for row in after.values()}) == len(after)
        before = after
    assert len(before) >= 20
    gone_by = time.monotonic() + 20
    while (left := children(process.pid)) and time.monotonic() < gone_by:
        time.sleep(0.1)
    assert not left, "workers outlive a killed search"
    last = start(model_file, place, tmp_path, "last")
    out, err = last.communicate(timeout=_PATIENCE_S)
    assert last.returncode == 0, err
    after = rows(place)
    assert {key: after.get(key) for key in before} == before
    assert len(after) == TRIALS
    assert f'"new_trials": {TRIALS - len(before)}' in out
    assert (tmp_path / "last.so").is_file()


def test_two_at_once_share_the_trials(model_file: Path, place: str, tmp_path: Path) -> None:
    both = [start(model_file, place, tmp_path, name) for name in "ab"]
    for process in both:
        _, err = process.communicate(timeout=2 * _PATIENCE_S)
        assert process.returncode == 0, err
    found = rows(place)
    assert len(found) == TRIALS
    assert len({row[:2] for row in found.values()}) == TRIALS
    with open_database(place) as database:
        assert [job.state for job in database.jobs(kind="tune")] == ["done", "done"]
        assert database.tuning.count()["claims"] == 0
