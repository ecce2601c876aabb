"""The parent's side of a zygote: starting it, having it fork workers, and ending them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_tvm.errors import TrialError

__all__ = ["Worker", "Zygote", "child_environment", "describe_end", "out_of_time"]

_START_S = 120.0
_ANSWER_S = 30.0
_PACKET = 1 << 16


class _Gone(Exception):
    """The zygote does not answer."""


@dataclass(frozen=True)
class Worker:
    """A forked child: its process id, the socket it serves, and the file of what it prints."""

    pid: int
    channel: socket.socket
    log: Path

    def last_words(self) -> str:
        """The end of what the child printed."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1][-500:] if lines else ""


class Zygote:
    """A warm process whose children `build` or `run`; starts with the first child, or before.

    One that dies is replaced; when its replacement dies too before it forked, TrialError is raised.
    Not for use by several threads at once.
    """

    def __init__(self, work: str, folder: Path) -> None:
        self._work, self._folder = work, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._forked = 0
        self._ready = False

    @property
    def pid(self) -> int | None:
        """Its process id while it lives."""
        return None if self._process is None else self._process.pid

    def launch(self) -> None:
        """Begin to start it, without waiting."""
        self._stop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = [self._work, str(theirs.fileno()), str(os.getpid())]
        with theirs, self._output().open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lepton_tvm.workers.zygote", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the parent, which ends it
                env=child_environment(),
            )
        self._control, self._ready = ours, False

    def start(self) -> None:
        """Have it ready; does nothing when it is. Raises TrialError when it cannot start."""
        if self._process is None or (self._ready and self._process.poll() is not None):
            self.launch()
        if self._ready:
            return
        try:
            self._receive(_START_S)
            self._ready = True
        except _Gone:
            said = self._end()
            raise TrialError(f"the process for candidate kernels does not start: {said}") from None

    def fork(self) -> Worker:
        """A new child. Raises TrialError when no zygote can be kept alive."""
        for _ in range(2):
            self.start()
            ours, theirs = socket.socketpair()
            self._forked += 1
            log = self._folder / f"{self._work}-{self._forked}.log"
            with theirs:
                try:
                    answer = self._ask({"fork": str(log)}, theirs.fileno())
                except _Gone:
                    ours.close()
                    said = self._end()
                    continue
            return Worker(int(answer["pid"]), ours, log)
        raise TrialError(f"the process for candidate kernels ended twice: {said}")

    def reap(self, worker: Worker, *, kill: bool) -> int | None:
        """End a child (`kill`: at once) and give its wait status.

        None where the zygote is gone, with which Linux has ended its children.
        """
        worker.channel.close()
        worker.log.unlink(missing_ok=True)
        try:
            return int(self._ask({"reap": worker.pid, "kill": kill})["status"])
        except _Gone:
            self._stop()
            return None

    def close(self) -> None:
        """End it and all its children."""
        self._stop()

    def _ask(self, question: dict[str, Any], descriptor: int | None = None) -> dict[str, Any]:
        if self._control is None:
            raise _Gone
        data = json.dumps(question).encode()
        try:
            if descriptor is None:
                self._control.send(data)
            else:
                socket.send_fds(self._control, [data], [descriptor])
        except OSError:
            raise _Gone from None
        return self._receive(_ANSWER_S)

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        assert self._control is not None
        waiting = select.poll()
        waiting.register(self._control, select.POLLIN)
        try:
            data = self._control.recv(_PACKET) if waiting.poll(timeout_s * 1000) else b""
        except OSError:
            data = b""
        if not data:
            raise _Gone
        answer: dict[str, Any] = json.loads(data)
        return answer

    def _end(self) -> str:
        """Stop it; why it ended."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        code = self._process.poll()
        try:
            words = self._output().read_text(errors="replace").strip()[-500:]
        except OSError:
            words = ""
        self._stop()
        if code is None:
            return "it does not answer"
        return words or (_signal_name(-code) if code < 0 else f"exit status {code}")

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is None:
            return
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _output(self) -> Path:
        return self._folder / f"{self._work}-zygote.log"


def describe_end(status: int | None, words: str) -> str:
    """How a child ended (`reap`'s answer and its last words), for people."""
    if status is None:
        return "the process that had started it was killed"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        end = f"killed by {_signal_name(number)}"
        if number == signal.SIGKILL:
            end += " (by someone, or by the system for want of memory)"
    else:
        end = f"ended with exit status {os.WEXITSTATUS(status)}"
    return f"{end}: {words}" if words else end


def out_of_time(status: int | None) -> bool:
    """Whether Linux ended a child because it computed for longer than it may."""
    return status is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def child_environment() -> dict[str, str]:
    """The parent's, with its import path: a checkout need not be installed.

    Python before 3.11 adds the working folder in front, whatever lies there.
    Libraries that would start threads when imported are told not to: a process with threads cannot
    be forked safely.
    """
    single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    return {**os.environ, **single, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
