"""Kills `lepton-tvm tune` at random moments and checks that nothing finished is lost.

    python tools/kill_tune.py --kills 100 --db sqlite:///kills.db
    python tools/kill_tune.py --kills 100 --db postgresql+psycopg://user@/kills --at-once 3

Every round starts `tune` on the demo's network, waits a random time, kills the process with
SIGKILL, and reads the database: what was there before must still be there, with the same contents.
At the end the command runs to its end and must find exactly the number of trials asked for.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import sqlalchemy as sa

from lepton_tvm.db import open_database
from lepton_tvm.demo.assets import model_path

Rows = dict[str, tuple[object, ...]]


def trials(url: str) -> Rows:
    """Every stored trial by its id; the key and candidate are unique among them."""
    with open_database(url) as database, database.reading() as reading:
        found = reading.execute(
            sa.text("SELECT id, key_id, candidate, state, median_s, reference_s FROM trials")
        )
        rows = {str(row[0]): tuple(row[1:]) for row in found}
    assert len({row[:2] for row in rows.values()}) == len(rows), "a trial is recorded twice"
    return rows


def start(url: str, count: int, folder: Path) -> subprocess.Popen[bytes]:
    """`tune` in a process group of its own."""
    command = [
        sys.executable, "-m", "lepton_tvm.cli", "tune", str(model_path()), "--trials", str(count),
        "--patience", "0", "--db", url, "-o", str(folder / f"tuned-{random.getrandbits(32):x}.so"),
    ]  # fmt: skip
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)


def main() -> None:
    """Kill, check, repeat; then let it finish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=1, help="processes on the database")
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--longest", type=float, default=12.0, help="seconds until a kill")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    folder = Path.cwd()
    before: Rows = {}
    running = [start(options.db, options.trials, folder) for _ in range(options.at_once)]
    for kill in range(1, options.kills + 1):
        time.sleep(random.uniform(0.0, options.longest / options.at_once))
        victim = running.pop(0)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        after = trials(options.db)
        lost = [key for key, row in before.items() if after.get(key) != row]
        assert not lost, f"kill {kill}: {len(lost)} trials are lost or changed"
        assert len(after) <= options.trials, f"kill {kill}: more trials than asked for"
        before = after
        print(f"kill {kill}: {len(after)} trials, none lost", flush=True)
        running.append(start(options.db, options.trials, folder))
    for process in running:
        assert process.wait() == 0, "the last run failed"
    after = trials(options.db)
    assert all(after.get(key) == row for key, row in before.items())
    assert len(after) == options.trials, f"{len(after)} of {options.trials} trials"
    print(f"{options.kills} kills, {len(after)} of {options.trials} trials, none lost or doubled")


if __name__ == "__main__":
    main()
