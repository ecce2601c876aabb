"""What every backend must do when several processes write and some of them are killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from lepton_tvm.db import Database, open_database
from tests.db import workers
from tests.db.workers import KEY, start
from tests.support.artifact_file import make_artifact


def notes(log: Path) -> list[tuple[str, bool]]:
    """Id of every trial that was noted, and whether the database said that it is new."""
    lines = log.read_text().splitlines()
    return [(line.split()[0], line.split()[1] == "True") for line in lines]


def is_whole(database: Database) -> bool:
    """Whether the database's own check finds nothing."""
    with database.reading() as session:
        if database.location.file is not None:
            found: str | None = session.scalar(sa.text("PRAGMA integrity_check"))
            return found == "ok"
        session.execute(sa.text("CREATE EXTENSION IF NOT EXISTS amcheck"))
        indexes = sa.text(
            "SELECT count(bt_index_check(c.oid, true)) FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind = 'i' AND n.nspname = 'public'"
        )
        return (session.scalar(indexes) or 0) > 10


class ProcessContract:
    """Give fixtures `url` of an empty, writable database and `db` and `tuned` of the same."""

    def test_processes_that_write_together(self, db: Database, url: str, tmp_path: Path) -> None:
        running = [start(workers.write_results, url, tmp_path, n) for n in range(3)]
        for process in running:
            process.join(120)
            assert process.exitcode == 0
        assert db.tuning.count() == {"workloads": 1, "trials": 60, "claims": 0}
        assert len(db.artifacts()) == 10
        for artifact in db.artifacts():
            db.artifact_path(artifact)

    def test_killed_between_start_and_finish(self, url: str, tmp_path: Path) -> None:
        process = start(workers.die_in_a_job, url, make_artifact(tmp_path / "a.so"))
        process.join(120)
        assert process.exitcode == -9
        with open_database(url) as database:
            (job,) = database.jobs()
            assert (job.state, job.progress) == ("interrupted", {"done": 5})
            assert job.seeds == {"search": 3}
            assert job.error == "its process ended without saying how"
            assert database.tuning.count()["workloads"] == 0
            (artifact,) = database.artifacts()
            assert database.artifact_path(artifact).is_file()
            with database.job("tune"), open_database(url) as another:
                assert [j.state for j in another.jobs()] == ["interrupted", "running"]

    def test_a_dead_owners_claims_are_given_out_again(self, tuned: Database, url: str) -> None:
        process = start(workers.die_with_claims, url)
        process.join(120)
        assert process.exitcode == -9
        assert tuned.tuning.count()["claims"] == 3
        wanted = [(KEY, f"candidate {i}") for i in range(5)]
        assert tuned.tuning.claim([KEY], wanted, limit=5, job_id="a") == wanted

    def test_eight_processes_try_everything_once(
        self, tuned: Database, url: str, tmp_path: Path
    ) -> None:
        log = tmp_path / "log"
        running = [start(workers.tune, url, log, 100) for _ in range(8)]
        for process in running:
            process.join(120)
            assert process.exitcode == 0
        noted = notes(log)
        assert len(noted) == len(set(noted)) == 100
        assert all(new for _, new in noted)
        assert {t.id for t in tuned.tuning.trials(KEY)} == {trial for trial, _ in noted}
        assert tuned.tuning.count([KEY]) == {"workloads": 1, "trials": 100, "claims": 0}

    @pytest.mark.parametrize("kills", [100])
    def test_kills_at_random_moments_lose_nothing(
        self, tuned: Database, url: str, tmp_path: Path, kills: int
    ) -> None:
        log = tmp_path / "log"
        workers.kill_at_random(
            lambda: start(workers.tune, url, log, 1_000_000), log, kills, at_once=3
        )
        noted = notes(log)
        stored = {t.id for t in tuned.tuning.trials(KEY)}
        assert len(noted) > kills
        assert all(new for _, new in noted)
        assert {trial for trial, _ in noted} <= stored
        # what was stored but not yet noted when the kill came: at most one a process
        assert len(stored) <= len(noted) + kills + 3
        assert is_whole(tuned)
        limit = len(stored) + 20
        resumed = start(workers.tune, url, log, limit)
        resumed.join(120)
        assert resumed.exitcode == 0
        assert tuned.tuning.count([KEY]) == {"workloads": 1, "trials": limit, "claims": 0}
        states = [job.state for job in tuned.jobs()]
        assert states.count("running") == 0
        assert states[-1] == "done"
        assert states.count("interrupted") > kills / 4
