"""A tracker and devices as real processes on the loopback interface."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lepton_tvm.farm import DeviceAddress

_PATIENCE_S = 60.0
_LISTENS = re.compile(r"(?:serving|tracking) on \S+:(\d+)")


@dataclass
class Running:
    """A server's process, the port it told, and what it has said so far."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def address(self) -> str:
        """As an option takes it."""
        return f"127.0.0.1:{self.port}"

    @property
    def device(self) -> DeviceAddress:
        """For a session without a tracker."""
        return DeviceAddress("127.0.0.1", self.port, "")

    @property
    def said(self) -> str:
        """What it printed."""
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        """Until the server has said `text`."""
        wait_until(lambda: text in self.said, lambda: f"{text!r} in {self.said!r}")

    def kill(self) -> None:
        """SIGKILL, and gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def session(self) -> int:
        """The process of the session that it serves now."""
        wait_until(self.has_session, lambda: "a session")
        return self._children()[0]

    def has_session(self) -> bool:
        """Whether it serves a session now."""
        return bool(self._children())

    def kill_session(self) -> None:
        """SIGKILL for the process of the session."""
        os.kill(self.session(), signal.SIGKILL)

    def _children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


def wait_until(done: Callable[[], bool], what: Callable[[], str]) -> None:
    """Poll `done`; AssertionError with `what` when it takes a minute."""
    end = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain for {what()}")
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextlib.contextmanager
def started(
    folder: Path,
    name: str,
    command: Sequence[str],
    *,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    extra: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """`python <command>` once it listens; ended when left. `extra` adds to the environment."""
    log = folder / f"{name}.log"
    own = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [python, *command],
            stdout=out,
            stderr=out,
            env={**(environment or own), **(extra or {})},
        )
    try:
        wait_until(
            lambda: bool(_LISTENS.search(log.read_text())) or process.poll() is not None,
            lambda: f"{name} to listen: {log.read_text()}",
        )
        found = _LISTENS.search(log.read_text())
        assert found is not None, log.read_text()
        yield Running(process, int(found.group(1)), log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tracker(folder: Path) -> contextlib.AbstractContextManager[Running]:
    """A tracker on a free port."""
    command = ["-m", "lepton_tvm.cli", "device", "tracker", "--port", "0"]
    return started(folder, "tracker", command)


def device(
    folder: Path, name: str = "device", *options: str, temporary: Path | None = None
) -> contextlib.AbstractContextManager[Running]:
    """A device on a free port, started the light way, without a tracker unless told.

    `temporary`: where its sessions have their folders, instead of the system's place.
    """
    command = ["-m", "lepton_tvm.bench.device_main", "--port", "0", *options]
    extra = {} if temporary is None else {"TMPDIR": str(temporary)}
    return started(folder, name, command, extra=extra)


@contextlib.contextmanager
def devices(
    folder: Path, tracker: Running, key: str, count: int, *options: str
) -> Iterator[list[Running]]:
    """So many devices of `key`, known to the tracker."""
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(
                device(folder, f"{key}{i}", "--tracker", tracker.address, "--key", key, *options)
            )
            for i in range(count)
        ]
        for each in made:
            each.wait_for("offered")
        yield made


def where(tracker: Running) -> tuple[str, int]:
    """Host and port of a tracker."""
    return "127.0.0.1", tracker.port
