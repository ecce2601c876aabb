"""Merging databases, also those that a stranger made to harm."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lepton_tvm.db import Database, Winner, open_database
from lepton_tvm.db.exchange.merge import merge
from lepton_tvm.db.gc import gc
from lepton_tvm.errors import DatabaseError, InputError, LeptonError
from tests.db.contract import OTHER, measurement, trial
from tests.db.workers import KEY
from tests.support.command_line import Lepton
from tests.support.old_databases import restore


@pytest.fixture
def other(tmp_path: Path, artifact: Path) -> Path:
    """A database file with one of each kind of record."""
    file = tmp_path / "other.db"
    with open_database(str(file)) as database:
        stored = database.add_artifact(artifact)
        database.add_results([measurement(stored.sha256)])
        tuning = database.tuning
        tuning.add_workloads([(KEY.workload_hash, "conv", "IR"), (OTHER.workload_hash, "fc", "IR")])
        tuning.add_tasks(stored.model_id, "int8", KEY.target, {KEY.workload_hash: 3})
        with database.job("tune", seeds={"search": 1}) as job:
            tried = trial(job_id=job.id)
            tuning.add_trials([tried, trial(OTHER, None, error="x")])
        tuning.add_winners([Winner(KEY, tried.id, tried.candidate, tried.decisions, 2.0, (1, 3))])
    return file


@contextlib.contextmanager
def changing(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection that checks nothing."""
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        yield connection


def test_all_records_come_over_once(db: Database, other: Path) -> None:
    before = other.read_bytes()
    report = merge(db, str(other))
    assert (report.rows, report.known, report.conflicts) == (13, 0, ())
    assert report.skipped == ("the files of 1 artifacts (they are code)",)
    again = merge(db, str(other))
    assert (again.rows, again.known, again.conflicts) == (0, 13, ())
    assert other.read_bytes() == before
    with open_database(str(other)) as source:
        assert db.models() == source.models()
        assert db.artifacts() == source.artifacts()
        assert db.measurements() == source.measurements()
        assert db.jobs() == source.jobs()
        assert db.tuning.trials(KEY) == source.tuning.trials(KEY)
        assert db.tuning.winner(KEY) == source.tuning.winner(KEY)
    assert not list(db.blobs.stored())
    assert merge(db, str(other), artifacts=True).artifacts == 1
    db.artifact_path(db.artifacts()[0])


def test_nothing_here_is_overwritten_and_conflicts_are_told(tuned: Database, other: Path) -> None:
    with open_database(str(other)) as source:
        (there,) = source.tuning.trials(KEY)
        won = source.tuning.winner(KEY)
    same_candidate = dataclasses.replace(there, id="a" * 32, median_s=5.0, job_id=None)
    same_id = dataclasses.replace(trial(OTHER, 7.0), id=there.id)
    tuned.tuning.add_trials([same_candidate])
    merge(tuned, str(other))
    assert tuned.tuning.trials(KEY) == [same_candidate]
    assert won is not None
    assert tuned.tuning.winner(KEY) == dataclasses.replace(won, trial_id="a" * 32)
    with open_database(str(other.with_name("third.db"))) as third:
        third.tuning.add_workload(OTHER.workload_hash, "fc", "IR of something else")
        third.tuning.add_trials([same_id])
        report = merge(third, str(other))
        assert third.tuning.trials(OTHER)[0] == same_id
    assert any("workloads vvvvvvvvvvvv differs in" in text for text in report.conflicts)
    assert any(f"trials {there.id[:12]} differs in" in text for text in report.conflicts)


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
def test_older_files_are_read_and_not_upgraded(db: Database, tmp_path: Path, revision: str) -> None:
    restore(revision, tmp_path / "old.db")
    with pytest.raises(InputError, match="models whose id is not that of its source"):
        merge(db, str(tmp_path / "old.db"))
    with changing(tmp_path / "old.db") as connection:
        for table in ("measurements", "evaluations", "artifacts", "models"):
            connection.execute(f"DELETE FROM {table}")
    merge(db, str(tmp_path / "old.db"))
    assert db.tuning.count()["trials"] == {"0001": 0, "0002": 3, "0003": 4}[revision]
    with contextlib.closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        version = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert version == (revision,)


BOMB = zlib.compress(bytes(200 << 20))
DEEP = "[" * 200_000 + "]" * 200_000

HOSTILE: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "trigger": (
        "CREATE TRIGGER t AFTER INSERT ON trials BEGIN DELETE FROM models; END",
        (),
        "holds the trigger 't'",
    ),
    "view": ("CREATE VIEW songs AS SELECT * FROM models", (), "holds the view 'songs'"),
    "virtual": ("CREATE VIRTUAL TABLE v USING fts5(a)", (), "holds the virtual table 'v'"),
    "no json": ("UPDATE trials SET samples_s = '{'", (), "record that cannot be read"),
    "deep json": ("UPDATE trials SET trace = ?", (DEEP,), "record that cannot be read"),
    "nan": ("UPDATE trials SET samples_s = '[NaN]'", (), "samples_s holds no plain JSON"),
    "text for numbers": ("UPDATE trials SET samples_s = '[\"a\"]'", (), "that are not seconds"),
    "blob for json": ("UPDATE trials SET trace = x'ff00'", (), "record that cannot be read"),
    "text for a time": ("UPDATE trials SET median_s = 'soon'", (), "whose median_s is not a"),
    "infinite time": ("UPDATE trials SET median_s = 9e999", (), "whose median_s is not a finite"),
    "negative time": ("UPDATE trials SET median_s = -1.0", (), "whose times are negative"),
    "unknown state": ("UPDATE trials SET state = 'good'", (), "whose state 'good' does not fit"),
    "bomb": ("UPDATE workloads SET ir = ?", (BOMB,), "longer than 64 MiB"),
    "no text": ("UPDATE workloads SET ir = 7", (), "record that cannot be read"),
    "long name": ("UPDATE workloads SET name = ?", ("x" * 300,), "longer than 255"),
    "nul": ("UPDATE trials SET error = ?", ("a\x00b",), "whose error is not text"),
    "foreign key": ("UPDATE trials SET key_id = 'none'", (), "FOREIGN KEY constraint failed"),
    "stolen key": ("UPDATE tuning_keys SET hardware = 'cpu9'", (), "id is not that of its parts"),
    "path": ("UPDATE artifacts SET sha256 = '../../x'", (), "artifacts whose sha256 is not a hash"),
    "decisions": ("UPDATE trials SET decisions = '{\"a\": []}'", (), "are not whole numbers"),
    "list": ("UPDATE artifacts SET manifest = '[]'", (), "whose manifest is not a dict"),
    "ratio": ("UPDATE winners SET ratio = 0", (), "whose ratio is not positive"),
    "huge number": ("UPDATE tasks SET calls = 99999999999", (), "whose calls is not a whole"),
    "missing table": ("DROP TABLE winners", (), "no such table"),
    "missing column": ("ALTER TABLE tasks DROP COLUMN calls", (), "no such column"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused_and_nothing_is_added(
    db: Database, other: Path, what: str
) -> None:
    statement, values, message = HOSTILE[what]
    with changing(other) as connection:
        connection.execute(statement, values)
    with pytest.raises(LeptonError, match=message):
        merge(db, str(other))
    assert db.models() == []
    assert db.jobs() == []
    assert db.tuning.count() == {"workloads": 0, "trials": 0, "claims": 0}


@pytest.mark.parametrize("what", ["trigger", "view", "virtual"])
def test_a_file_that_brings_code_is_not_opened(other: Path, what: str) -> None:
    statement, values, message = HOSTILE[what]
    with changing(other) as connection:
        connection.execute(statement, values)
    with pytest.raises(DatabaseError, match=message):
        open_database(str(other))


@pytest.mark.parametrize(
    "statement",
    ["UPDATE workloads SET ir = x'ff'", "UPDATE trials SET trace = '{'", "DROP TABLE workloads"],
)
def test_hostile_files_of_older_schemas(db: Database, tmp_path: Path, statement: str) -> None:
    restore("0002", tmp_path / "old.db")
    with changing(tmp_path / "old.db") as connection:
        connection.execute(statement)
    before = (tmp_path / "old.db").read_bytes()
    with pytest.raises(DatabaseError, match=r"old\.db"):
        merge(db, str(tmp_path / "old.db"))
    assert db.tuning.count()["trials"] == 0
    assert (tmp_path / "old.db").read_bytes() == before


def test_a_damaged_record_is_one_clear_error(other: Path) -> None:
    with changing(other) as connection:
        connection.execute("UPDATE trials SET samples_s = '{'")
    with (
        open_database(str(other)) as database,
        pytest.raises(DatabaseError, match=r"other\.db holds a record that cannot be read"),
    ):
        database.tuning.trials(KEY)


def test_what_is_no_other_database(db: Database, url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is the database itself"):
        merge(db, url)
    with pytest.raises(InputError, match="does not exist"):
        merge(db, str(tmp_path / "none.db"))
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text.db").write_text("no database")
    with pytest.raises(DatabaseError, match="is not a SQLite database"):
        merge(db, str(tmp_path / "text.db"))


def test_running_jobs_come_over_as_interrupted(db: Database, other: Path) -> None:
    with open_database(str(other)) as source, source.job("tune"):
        merge(db, str(other))
    assert [job.state for job in db.jobs()] == ["done", "interrupted"]


def test_gc_clears_dead_claims_and_older_schedules(tuned: Database, other: Path) -> None:
    newer = dataclasses.replace(KEY, schedule_version="2")
    merge(tuned, str(other))
    tuned.tuning.add_trials([trial(newer)])
    tuned.tuning.claim([KEY], [(KEY, "x")], limit=None, job_id="a", lease_s=-1)
    assert gc(tuned, dry_run=True, schedules={"2"}).trials == 2
    assert tuned.tuning.count() == {"workloads": 2, "trials": 3, "claims": 1}
    assert gc(tuned).claims == 1
    assert tuned.tuning.count() == {"workloads": 2, "trials": 3, "claims": 0}
    report = gc(tuned, schedules={"2"})
    assert (report.trials, report.kernels) == (2, 1)
    assert tuned.tuning.winner(KEY) is None
    assert tuned.tuning.best(newer) is not None
    assert tuned.tuning.count() == {"workloads": 1, "trials": 1, "claims": 0}


def test_gc_clears_winners_that_name_trials_of_older_schedules(tuned: Database) -> None:
    newer = dataclasses.replace(KEY, schedule_version="2")
    tried = trial()
    tuned.tuning.add_trials([tried])
    tuned.tuning.add_winners([Winner(newer, tried.id, "{}", {}, 2.0, (1, 3))])
    assert gc(tuned, schedules={"2"}).trials == 1
    assert tuned.tuning.winner(newer) is None


def test_commands(other: Path, lepton: Lepton) -> None:
    said = lepton("db", "merge", other, "--db", "here.db")
    assert (said.code, said.err) == (0, "")
    assert "13 records and 0 artifact files added, 0 were here already" in said.out
    assert lepton("db", "merge", other, "--db", "here.db", "--json").json["known"] == 13
    dry = lepton("db", "gc", "--older-schedules", "--dry-run", "--db", "here.db", "--json").json
    assert (dry["trials"], dry["kernels"]) == (2, 2)
