"""PostgreSQL: the contracts on a real server, and what can be wrong with one."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from lepton_tvm.db import Database, open_database, schema
from lepton_tvm.db.exchange.merge import merge
from lepton_tvm.db.location import parse_url
from lepton_tvm.db.tables import Base
from lepton_tvm.errors import ArtifactError, DatabaseError, DatabaseInputError, InputError
from tests.db.contract import DatabaseContract, trial
from tests.db.process_contract import ProcessContract
from tests.db.summary_contract import SummaryContract
from tests.db.tuning_contract import TuningContract
from tests.db.workers import KEY
from tests.support.postgres import PASSWORD, Server


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEPTON_TVM_ARTIFACTS", str(tmp_path / "artifacts"))
    return tmp_path / "artifacts"


@pytest.fixture
def url(postgres_server: Server, artifacts: Path) -> Iterator[str]:
    with postgres_server.database(template="lepton") as fresh:
        yield fresh


@pytest.fixture
def empty(postgres_server: Server, artifacts: Path) -> Iterator[str]:
    """A database without tables."""
    with postgres_server.database() as fresh:
        yield fresh


class TestPostgres(DatabaseContract, TuningContract, SummaryContract, ProcessContract):
    """The contract on PostgreSQL."""


def test_migrations_end_in_what_the_tables_say(db: Database) -> None:
    with db.reading() as session:
        context = MigrationContext.configure(session.connection())
        assert compare_metadata(context, Base.metadata) == []


def test_trials_of_schema_0002_come_through(empty: str) -> None:
    engine = sa.create_engine(empty)
    with engine.begin() as connection:
        schema.upgrade(connection, "0002")
        connection.exec_driver_sql(
            "INSERT INTO workloads VALUES ('w', 'conv', 'IR of conv: ä', '2026-11-22');"
            "INSERT INTO trials VALUES ('1', 'w', 'x86:avx2', 'cpu0', '0.27.0', '1', NULL, 'ok',"
            """ '[["tile", 4]]', '[0.002, 0.003]', 0.0025, NULL, '2026-11-22')"""
        )
    engine.dispose()
    with open_database(empty) as database:
        (stored,) = database.tuning.trials(dataclasses.replace(KEY, workload_hash="w"))
        assert (stored.samples_s, stored.trace) == ([0.002, 0.003], [["tile", 4]])
        assert database.tuning.workload("w") == ("conv", "IR of conv: ä")


def test_many_open_a_new_database_together(empty: str) -> None:
    errors: list[BaseException] = []

    def opens() -> None:
        try:
            open_database(empty).close()
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=opens) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_newer_schema_is_refused(db: Database, url: str) -> None:
    with db.writing() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '0099'"))
    with pytest.raises(DatabaseError, match=r"has schema 0099, .* written by a newer version"):
        open_database(url)


def test_tables_of_another_program(empty: str, postgres_server: Server) -> None:
    postgres_server.execute("CREATE TABLE songs (title text)", parse_url(empty).url.database or "")
    with pytest.raises(DatabaseError, match=r"another program \(songs\); give another database"):
        open_database(empty)


def test_reading_makes_no_tables(empty: str) -> None:
    for _ in range(2):
        with pytest.raises(DatabaseInputError, match=r"is empty; lepton-tvm compile fills it"):
            open_database(empty, create=False)
    open_database(empty).close()
    open_database(empty, create=False).close()


def test_a_writer_waits_its_turn_and_then_says_so(url: str) -> None:
    with open_database(url) as first, open_database(url, busy_seconds=0.1) as second:
        with first.writing() as session:
            session.execute(sa.text("SELECT 1"))
            with pytest.raises(DatabaseError, match="stayed locked by another process"):
                second.add_model("m", "0" * 64, [], [])
        assert second.models() == []
        assert second.add_model("m", "0" * 64, [], []).name == "m"


def test_a_user_who_may_only_read(db: Database, url: str, postgres_server: Server) -> None:
    db.tuning.add_workload(KEY.workload_hash, "conv", "IR")
    known = trial()
    db.tuning.finish(known)
    name = parse_url(url).url.database or ""
    postgres_server.execute("CREATE ROLE reader LOGIN PASSWORD 'r'")
    try:
        with pytest.raises(DatabaseError, match=r"user 'reader' lacks rights .*GRANT SELECT"):
            open_database(postgres_server.url(name, "reader", "r"))
        postgres_server.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", name)
        with open_database(postgres_server.url(name, "reader", "r")) as database:
            assert database.readonly
            assert database.tuning.best(KEY) == known
            with pytest.raises(DatabaseError, match=r'nothing can be .*GRANT .* TO "reader"'):
                database.tuning.add_trials([trial()])
    finally:
        postgres_server.execute("DROP OWNED BY reader", name)
        postgres_server.execute("DROP ROLE reader")


def test_what_can_be_wrong_with_a_server(
    postgres_server: Server, artifacts: Path, tmp_path: Path
) -> None:
    def fails(url: str) -> str:
        with pytest.raises(DatabaseError) as caught:
            open_database(url)
        assert PASSWORD not in str(caught.value)
        assert "wrong word" not in str(caught.value)
        return str(caught.value)

    wrong = fails(postgres_server.url("lepton", password="wrong word"))
    assert "refuses user 'tester': wrong user or password" in wrong
    assert "refuses user 'nobody'" in fails(postgres_server.url("lepton", user="nobody"))
    assert "create it with: createdb none" in fails(postgres_server.url("none"))
    absent = fails(f"postgresql://tester:{PASSWORD[:6]}@/x?host={tmp_path}")
    assert "no server listens there" in absent
    assert "no server listens there" in fails("postgresql://a:wrong@127.0.0.1:1/x")
    assert "its host name is not known" in fails("postgresql://a:wrong@no.such.invalid/x")


def test_a_lost_connection(url: str, postgres_server: Server) -> None:
    with open_database(url) as database:
        name = parse_url(url).url.database
        ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"

        def is_cut_off() -> None:
            with database.writing() as session:
                session.execute(sa.text("SELECT 1"))
                postgres_server.execute(ends.format(name))
                session.execute(sa.text("SELECT 1"))

        with pytest.raises(DatabaseError, match="nothing unfinished was stored"):
            is_cut_off()
        # the next one gets a new connection
        assert database.models() == []


def test_missing_driver(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DatabaseError, match=r"driver is not installed .*lepton-tvm\[postgres\]"):
        open_database("postgresql://host/name")


def test_missing_artifacts_of_another_machine(db: Database, artifact: Path) -> None:
    stored = db.add_artifact(artifact)
    db.artifact_path(stored).unlink()
    with pytest.raises(ArtifactError, match=r"is gone; look on the machine .*LEPTON_TVM_ARTIFACTS"):
        db.artifact_path(stored)


def test_each_server_and_database_has_artifacts_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LEPTON_TVM_ARTIFACTS", raising=False)
    urls = [
        "postgresql://me:word@h/a",
        "postgres://you:else@h/a",
        "postgresql://h/b",
        "postgresql://i/a",
    ]
    first, same, *others = [parse_url(u).artifacts for u in urls]
    assert first == same
    assert len({first, *others}) == 3
    assert "word" not in str(first)
    assert first.name.startswith("a@h-5432-")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql+psycopg2://host/name", r"only sqlite:///FILE and postgresql\+psycopg"),
        ("postgresql://me:hidden@host", "names no database"),
        ("postgresql://me:hidden@host:port/name", r"://\*\*\*@host:port/name' is not a database"),
    ],
)
def test_urls_that_cannot_be(url: str, message: str) -> None:
    with pytest.raises(DatabaseError, match=message) as caught:
        parse_url(url)
    assert "hidden" not in str(caught.value)


def test_a_password_in_the_query_is_not_shown() -> None:
    place = parse_url("postgresql://host/name?user=me&password=hidden&sslpassword=hidden")
    assert "hidden" not in str(place)


def test_merging_from_and_into_a_server(db: Database, url: str, tmp_path: Path) -> None:
    db.tuning.add_workload(KEY.workload_hash, "conv", "IR")
    known = trial()
    db.tuning.finish(known)
    with open_database(str(tmp_path / "file.db")) as file:
        assert merge(file, url).rows == 3
        assert file.tuning.trials(KEY) == [known]
        file.tuning.finish(trial())
    report = merge(db, str(tmp_path / "file.db"))
    assert (report.rows, report.known) == (1, 3)
    assert len(db.tuning.trials(KEY)) == 2
    with pytest.raises(InputError, match="is the database itself"):
        merge(db, url)
