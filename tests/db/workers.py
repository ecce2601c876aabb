"""What the processes of the tests do. They are forked from one that has imported the package."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from lepton_tvm.db import Trial, TrialKey, open_database

KEY = TrialKey("w" * 64, "x86:avx2", "cpu0", "0.27.0", "1")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["tests.db.workers", "psycopg", "sqlalchemy.dialects.postgresql.psycopg"]
)


def start(function: Callable[..., None], *args: object) -> BaseProcess:
    """Run a function of this module in a process of its own."""
    process = _context.Process(target=_run, args=(function, os.environ.copy(), *args))
    process.start()
    return process


def _run(function: Callable[..., None], environment: dict[str, str], *args: object) -> None:
    os.environ.update(environment)  # the forking process has an older one
    function(*args)


def tune(url: str, log: Path, limit: int) -> None:
    """Claim and finish trials until there are `limit`; note each one after it was stored."""
    with open_database(url) as db, db.job("tune") as job, log.open("a") as notes:
        while (stored := db.tuning.count([KEY])["trials"]) < limit:
            wanted = [(KEY, f"candidate {stored + i}") for i in range(24)]
            granted = db.tuning.claim([KEY], wanted, limit=limit, job_id=job.id)
            for key, candidate in granted[:3]:
                trial = Trial(key, "ok", None, [1e-3], 1e-3, candidate=candidate, job_id=job.id)
                new = db.tuning.finish(trial)
                notes.write(f"{trial.id} {new}\n")
                notes.flush()
            db.tuning.release(job.id)
            if not granted:
                time.sleep(0.01)


def write_results(url: str, folder: Path, number: int) -> None:
    """Add trials, workloads and artifacts that other processes add too."""
    from tests.support.artifact_file import make_artifact

    with open_database(url) as db:
        db.tuning.add_workload(KEY.workload_hash, "conv", "IR")
        for i in range(10):
            names = [f"{number} {i} {j}" for j in range(2)]
            db.tuning.add_trials([Trial(KEY, "ok", None, [1.0], 1.0, candidate=n) for n in names])
            db.add_artifact(make_artifact(folder / f"{number}.so", name=f"net{i}"))


def die_with_claims(url: str) -> None:
    """Claim three candidates and end without a word."""
    db = open_database(url)
    wanted = [(KEY, f"candidate {i}") for i in range(3)]
    granted = db.tuning.claim([KEY], wanted, limit=None, job_id="dead", lease_s=3600)
    if granted == wanted:
        os.kill(os.getpid(), signal.SIGKILL)


def die_in_a_job(url: str, artifact: Path) -> None:
    """End in the middle of a transaction of a job."""
    from lepton_tvm.db.tables import WorkloadRow

    db = open_database(url)
    db.add_artifact(artifact)
    with db.job("tune", {"trials": 8}, {"search": 3}) as job:
        job.progress(done=5)
        with db.writing() as session:
            session.add(WorkloadRow(hash="w", name="n", ir="i", created_at="now"))
            session.flush()
            os.kill(os.getpid(), signal.SIGKILL)


def kill_at_random(
    start_one: Callable[[], BaseProcess], log: Path, kills: int, at_once: int
) -> None:
    """Keep `at_once` processes running and kill one after another, `kills` in all.

    Each time the processes get to note a few more trials, so that also on a slow machine they are
    killed at work.
    """
    moments = random.Random(kills)
    running = [start_one() for _ in range(at_once)]
    for _ in range(kills):
        reached = size(log) + moments.randrange(4) * 38
        while size(log) < reached:
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.01))
        victim = running.pop(moments.randrange(len(running)))
        assert victim.exitcode is None, "it ended before it was killed"
        victim.kill()
        running.append(start_one())
    for process in running:
        process.kill()
        process.join()


def size(log: Path) -> int:
    """Bytes of a file that may not be there yet."""
    return log.stat().st_size if log.exists() else 0
