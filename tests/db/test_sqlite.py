"""SQLite: the contract, and what can be wrong with a file."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from lepton_tvm.db import Database, open_database
from lepton_tvm.errors import ArtifactError, DatabaseError
from tests.db.contract import DatabaseContract
from tests.db.process_contract import ProcessContract
from tests.db.summary_contract import SummaryContract
from tests.db.tuning_contract import TuningContract
from tests.support.artifact_file import make_artifact


class TestSqlite(DatabaseContract, TuningContract, SummaryContract, ProcessContract):
    """The contract on SQLite."""


def test_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEPTON_TVM_DB", raising=False)
    open_database().close()
    assert (tmp_path / "lepton.db").is_file()
    monkeypatch.setenv("LEPTON_TVM_DB", f"sqlite:///{tmp_path}/other.db")
    with open_database() as database:
        assert database.url.endswith("other.db")
        assert open_database(database) is database
    open_database("plain.db").close()
    assert (tmp_path / "plain.db").is_file()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/name", r"only sqlite:///FILE and postgresql\+psycopg"),
        ("sqlite://", "in-memory database keeps nothing"),
        ("sqlite:////none/such/lepton.db", "mkdir -p /none/such"),
        ("::://", "not a database URL"),
    ],
)
def test_urls_that_cannot_be(url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEPTON_TVM_ARTIFACTS", raising=False)
    with pytest.raises(DatabaseError, match=message):
        open_database(url)


@pytest.mark.parametrize("name", ["what?.db", "a%20b #1.db", "b\u00fccher.db"])
def test_paths_are_taken_as_they_are(name: str, tmp_path: Path) -> None:
    for path in (tmp_path / name, str(tmp_path / name)):
        with open_database(path) as database:
            database.add_model("m", "0" * 64, [], [])
            assert len(database.models()) == 1
    assert {p.name for p in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize("place", [False, 3, b"lepton.db"])
def test_what_is_no_place(place: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatabaseError, match="is not a database: give"):
        open_database(place)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_password_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_TVM_ARTIFACTS", str(tmp_path))
    url = "postgresql+psycopg://me:secret@localhost:1/name"
    with pytest.raises(DatabaseError) as caught:
        open_database(url)
    assert "secret" not in str(caught.value)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("this is not a database, however long it goes on")
    with pytest.raises(DatabaseError, match="is not a SQLite database"):
        open_database(str(text))
    assert text.read_text().startswith("this is not")
    with pytest.raises(DatabaseError, match="is a folder"):
        open_database(str(tmp_path))
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE songs (title)")
    connection.close()
    before = other.read_bytes()
    with pytest.raises(DatabaseError, match=r"tables of another program \(songs\)"):
        open_database(str(other))
    assert other.read_bytes() == before


def test_readers_and_a_writer_work_together(url: str) -> None:
    with open_database(url) as database, database.reading() as session:
        mode = session.connection().exec_driver_sql("PRAGMA journal_mode").scalar()
        assert mode == "wal"
        database.add_model("m", "0" * 64, [], [])  # while the other transaction is open


def test_damaged_file(url: str, tmp_path: Path) -> None:
    open_database(url).close()
    file = tmp_path / "lepton.db"
    data = file.read_bytes()
    file.write_bytes(data[:100] + b"\xff" * (len(data) - 100))
    with pytest.raises(DatabaseError, match="damaged; restore it"):
        open_database(url)


def test_read_only_file_can_be_read(url: str, artifact: Path, tmp_path: Path) -> None:
    with open_database(url) as database:
        stored = database.add_artifact(artifact)
    file = tmp_path / "lepton.db"
    file.chmod(0o444)
    before = file.read_bytes()
    with open_database(url) as database:
        assert database.readonly
        assert database.artifacts() == [stored]
        with pytest.raises(DatabaseError, match=r"is read-only, nothing .*; .*chmod u\+w"):
            database.add_artifact(make_artifact(tmp_path / "b.so", isa="other"))
        with pytest.raises(DatabaseError, match="is read-only"), database.job("compile"):
            raise AssertionError("the job must not begin")
    assert file.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if "wal" in p.name or "shm" in p.name) == []


def test_locked_file(url: str, tmp_path: Path) -> None:
    with open_database(url, busy_seconds=0.1) as database:
        other = sqlite3.connect(tmp_path / "lepton.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert database.models() == []
        with pytest.raises(DatabaseError, match="stayed locked by another process"):
            database.add_model("m", "0" * 64, [], [])
        other.execute("ROLLBACK")
        other.close()
        assert database.add_model("m", "0" * 64, [], []).name == "m"


def test_full_disk(url: str) -> None:
    with open_database(url) as database:
        with database.reading() as session:
            pages = session.connection().exec_driver_sql("PRAGMA page_count").scalar()
            session.connection().exec_driver_sql(f"PRAGMA max_page_count={pages}")
        with pytest.raises(DatabaseError, match="the disk is full, nothing was stored"):
            database.tuning.add_workload("w", "conv", os.urandom(500_000).hex())
        assert database.tuning.count()["workloads"] == 0


def test_flipped_byte_in_a_stored_artifact(db: Database, artifact: Path) -> None:
    stored = db.add_artifact(artifact)
    file = db.artifact_path(stored)
    data = bytearray(file.read_bytes())
    data[40] ^= 4
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"is damaged: its sha256 is .* it was not loaded"):
        db.artifact_path(stored)
    db.add_artifact(artifact)
    assert db.artifact_path(stored).read_bytes() == artifact.read_bytes()
    file.unlink()
    with pytest.raises(ArtifactError, match=r"its file .* is gone; compile it again"):
        db.artifact_path(stored)


def test_damaged_file_is_not_stored(db: Database, artifact: Path) -> None:
    artifact.write_bytes(artifact.read_bytes()[:-1])
    with pytest.raises(ArtifactError):
        db.add_artifact(artifact)
    assert db.artifacts() == []
    assert db.models() == []
