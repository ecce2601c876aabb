"""Processes: they end with their parent, their memory is steady, and scripts need no guard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lepton_tvm.workers import LocalRunner, ParallelBuilder, RunRequest
from lepton_tvm.workers.scratch_folders import Scratch
from tests.support.worker_kernels import argument, line, numbers, output, request

# Builds and runs one kernel at its top level, as people write scripts, then waits.
_SCRIPT = """
import sys, time
from tests.support.worker_kernels import line, request
from lepton_tvm.workers import LocalRunner, ParallelBuilder, RunRequest, Argument
from pathlib import Path
folder = sys.argv[1]
print("top level", flush=True)
builder, runner = ParallelBuilder(2, folder=folder), LocalRunner(folder=folder)
built = list(builder.build([request(str(i), line((3,), "int32")) for i in range(2)]))
assert [b.state for b in built] == ["ok", "ok"], built
x, y = Argument((3,), "int32", folder + "/x"), Argument((3,), "int32", None)
Path(folder, "x").write_bytes(bytes(12))
(result,) = runner.run([RunRequest("r", built[0].path, (x, y), built[1].path, (x, y))])
assert result.state == "ok", result
pids = [d.worker.pid for d in builder._desks] + [builder._zygote.pid, runner._zygote.pid]
print(*pids, flush=True)
if "wait" in sys.argv:
    time.sleep(600)
builder.close()
runner.close()
"""


def start(script: Path, *arguments: str) -> subprocess.Popen[str]:
    script.write_text(_SCRIPT)
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def memory(pid: int | None) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_script_without_a_guard_works_and_leaves_nothing(tmp_path: Path) -> None:
    script = start(tmp_path / "script.py", str(tmp_path))
    said, _ = script.communicate(timeout=120)
    assert script.returncode == 0
    # Processes that import the script again would say this again.
    assert said.count("top level") == 1
    assert not any(lives(int(pid)) for pid in said.split("\n")[1].split())
    assert not list(tmp_path.glob("lepton-trials-*"))


def test_a_killed_parent_leaves_no_process_and_the_next_cleans_up(tmp_path: Path) -> None:
    script = start(tmp_path / "script.py", str(tmp_path), "wait")
    assert script.stdout is not None
    assert script.stdout.readline() == "top level\n"
    pids = [int(pid) for pid in script.stdout.readline().split()]
    assert len(pids) == 4
    assert all(lives(pid) for pid in pids)
    script.kill()
    script.wait()
    script.stdout.close()
    assert wait_until(lambda: not any(lives(pid) for pid in pids))
    assert len(list(tmp_path.glob("lepton-trials-*"))) == 2
    scratch = Scratch(tmp_path)
    assert list(tmp_path.glob("lepton-trials-*")) == [scratch.path]
    scratch.close()


def test_workers_end_with_their_zygote(builder: ParallelBuilder) -> None:
    list(builder.build([request(str(i), line((2,), "int32")) for i in range(2)]))
    pids = [desk.worker.pid for desk in builder._desks]
    assert pids
    assert builder._zygote.pid is not None
    os.kill(builder._zygote.pid, signal.SIGKILL)
    assert wait_until(lambda: not any(lives(pid) for pid in pids))


def test_folders_of_living_processes_and_of_strangers_stay(tmp_path: Path) -> None:
    first = Scratch(tmp_path)
    (tmp_path / "lepton-trials-fresh").mkdir()
    (tmp_path / "lepton-trials-old").mkdir()
    os.utime(tmp_path / "lepton-trials-old", (0, 0))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "lepton-trials-link").symlink_to(tmp_path / "elsewhere")
    second = Scratch(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        first.path.name, second.path.name,
        "lepton-trials-fresh", "lepton-trials-link", "elsewhere",
    }  # fmt: skip
    first.close()
    second.close()
    assert not first.path.exists()


def test_memory_is_steady_over_200_trials(tmp_path: Path) -> None:
    modules = [line((n,), "int32") for n in range(2, 12)]
    x = {n: argument(tmp_path, str(n), numbers((n,), "int32")) for n in range(2, 12)}
    sizes = []
    with ParallelBuilder(2) as builder, LocalRunner() as runner:
        for _ in range(10):
            requests = [request(str(n), modules[n % 10]) for n in range(20)]
            for answer in builder.build(requests):
                n = 2 + int(answer.id) % 10
                assert answer.path is not None, answer.error
                arguments = (x[n], output((n,), "int32"))
                run = RunRequest("r", answer.path, arguments, budget_s=0.002)
                assert [r.state for r in runner.run([run])] == ["ok"]
                Path(answer.path).unlink()
            sizes.append(
                [memory(p) for p in (os.getpid(), builder._zygote.pid, runner._zygote.pid)]
            )
            assert len(list(builder.folder.iterdir())) < 10
    for early, late in zip(sizes[1], sizes[-1], strict=True):
        assert late - early < 4 << 20, sizes
