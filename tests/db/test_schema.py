"""Old files are upgraded, newer ones refused, and tables and migrations agree."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from lepton_tvm.db import Database, TrialKey, open_database, schema
from lepton_tvm.db.tables import Base
from lepton_tvm.errors import DatabaseError
from tests.support.old_databases import restore


def test_migrations_end_in_what_the_tables_say(db: Database) -> None:
    with db.reading() as session:
        context = MigrationContext.configure(session.connection())
        assert compare_metadata(context, Base.metadata) == []


def test_known_revisions_are_those_in_the_folder() -> None:
    scripts = ScriptDirectory(str(schema._MIGRATIONS))
    assert scripts.get_current_head() == schema.HEAD
    assert {s.revision for s in scripts.walk_revisions()} == set(schema._KNOWN)


@pytest.mark.parametrize("revision", schema._KNOWN)
def test_every_old_file_has_test_data_and_upgrades(revision: str, tmp_path: Path) -> None:
    restore(revision, tmp_path / "old.db")
    with open_database(str(tmp_path / "old.db")) as database:
        (model,) = database.models("resnet")
        (artifact,) = database.artifacts(model_id=model.id)
        assert artifact.manifest == {"name": "resnet"}
        assert database.measurements(artifact.sha256)[0].samples_s == [0.001, 0.002]
        assert database.evaluations(artifact.sha256)[0].value == 0.75
        with database.job("compile"):
            pass
        assert [j.state for j in database.jobs(kind="compile")] == ["done"]


def test_trials_of_schema_0002_come_through(tmp_path: Path) -> None:
    restore("0002", tmp_path / "old.db")
    key = TrialKey("8" * 64, "x86:avx2", "cpu0", "0.27.0", "1")
    with open_database(str(tmp_path / "old.db")) as database:
        tuning = database.tuning
        fast, slow = tuning.trials(key)
        assert (fast.median_s, slow.samples_s, slow.trace) == (1e-3, [2e-3, 3e-3], [["tile", 4]])
        assert fast.candidate != slow.candidate
        assert fast.decisions is None
        (failed,) = tuning.trials(dataclasses.replace(key, hardware="cpu1"))
        assert (failed.state, failed.error) == ("failed", "no registers")
        assert tuning.workload("8" * 64) == ("conv", "IR of conv: ä")
        assert tuning.count() == {"workloads": 1, "trials": 3, "claims": 0}


def test_newer_schema_is_refused_untouched(db: Database, url: str, tmp_path: Path) -> None:
    db.close()
    file = tmp_path / "lepton.db"
    connection = sqlite3.connect(file)
    connection.execute("UPDATE alembic_version SET version_num = '0099'")
    connection.commit()
    connection.close()
    before = file.read_bytes()
    with pytest.raises(DatabaseError, match=r"has schema 0099, .* written by a newer version"):
        open_database(url)
    assert file.read_bytes() == before


def test_old_schema_in_a_read_only_file(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    restore("0001", file)
    file.chmod(0o444)
    with pytest.raises(DatabaseError, match=r"read-only and has the older schema 0001"):
        open_database(str(file))


def test_failed_upgrade_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "old.db"
    restore("0001", file)
    upgrade = schema.upgrade

    def fails(connection: object) -> None:
        upgrade(connection)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(schema, "upgrade", fails)
    with pytest.raises(KeyboardInterrupt):
        open_database(str(file))
    connection = sqlite3.connect(file)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
    tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name='jobs'").fetchone()
    assert tables == (0,)
    connection.close()
    monkeypatch.undo()
    open_database(str(file)).close()
