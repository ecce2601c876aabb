"""Several processes at once, and processes that are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lepton_tvm.db import open_database
from tests.db.conftest import make_artifact

WRITER = """
import sys
from pathlib import Path
from lepton_tvm.db import open_database
from tests.db.conftest import make_artifact
from tests.db.contract import KEY, trial
url, folder, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
with open_database(url) as db:
    db.tuning.add_workload(KEY.workload_hash, "conv", "IR")
    for i in range(10):
        db.tuning.add_trials([trial(candidate=f"{number} {i} {j}") for j in range(2)])
        db.add_artifact(make_artifact(folder / f"{number}.so", name=f"net{i}"))
"""

DIES = """
import os, signal, sys
from pathlib import Path
from lepton_tvm.db import open_database
db = open_database(sys.argv[1])
db.add_artifact(sys.argv[2])
with db.job("tune", {"trials": 8}, {"search": 3}) as job:
    job.progress(done=5)
    with db.writing() as session:
        from lepton_tvm.db.tables import WorkloadRow
        session.add(WorkloadRow(hash="w", name="n", ir="i", created_at="now"))
        session.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def start(code: str, *args: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stderr=subprocess.PIPE)


def test_processes_that_create_and_write_together(url: str, tmp_path: Path) -> None:
    running = [start(WRITER, url, tmp_path, n) for n in range(3)]
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()
    with open_database(url) as database:
        assert database.tuning.count() == {"workloads": 1, "trials": 60, "claims": 0}
        assert len(database.artifacts()) == 10
        for artifact in database.artifacts():
            database.artifact_path(artifact)


def test_killed_between_start_and_finish(url: str, tmp_path: Path) -> None:
    process = start(DIES, url, make_artifact(tmp_path / "a.so"))
    process.communicate(timeout=120)
    assert process.returncode == -9
    with open_database(url) as database:
        (job,) = database.jobs()
        assert (job.state, job.progress, job.seeds) == ("interrupted", {"done": 5}, {"search": 3})
        assert job.error == "its process ended without saying how"
        assert database.tuning.count()["workloads"] == 0
        (artifact,) = database.artifacts()
        assert database.artifact_path(artifact).is_file()
        with database.job("tune"):
            assert [j.state for j in open_database(url).jobs()] == ["interrupted", "running"]
