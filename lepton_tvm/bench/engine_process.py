"""Talking to the process of one engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from lepton_tvm.bench.engines import ENGINES, Job
from lepton_tvm.errors import LeptonError

__all__ = ["EngineFailed", "EngineProcess"]


class EngineFailed(LeptonError, RuntimeError):
    """An engine could not load or run the model."""


class EngineProcess:
    """One engine with the model loaded, in a process of its own; a context manager.

    The process is stopped (SIGSTOP) whenever it has nothing to do: the threads of most engines spin
    for a while after their work, which would take CPU time from the engine whose turn it is.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        #: Seconds of all runs so far, and seconds that threads were without a CPU in them.
        self.ran, self.waited = 0.0, 0.0
        self._log = Path(job.scratch) / "stderr.txt"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lepton_tvm.bench.engine_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(job),
            )
        try:
            told = self._ask(job.to_json())
        except BaseException:
            self.close()
            raise
        self.version = str(told["version"])
        self.isa = str(told["isa"])
        #: The calls of one run, for a job that asks for a profile.
        self.calls: tuple[str, ...] = tuple(told["calls"])

    def run(self, number: int) -> float:
        """Run `number` times; seconds of one run. Raises EngineFailed."""
        answer = self._ask({"run": number})
        self.ran += number * float(answer["seconds"])
        self.waited += float(answer["waited"])
        return float(answer["seconds"])

    def profile(self, number: int) -> tuple[float, list[float]]:
        """Run `number` times; mean seconds of one run and of each of its calls."""
        answer = self._ask({"profile": number})
        return float(answer["seconds"]), [float(s) for s in answer["calls"]]

    def close(self) -> None:
        """End the process."""
        self._signal(signal.SIGCONT)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                _close(stream)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        self._signal(signal.SIGSTOP)
        if not line:
            raise EngineFailed(f"{self._name()} ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineFailed(f"{self._name()} failed: {answer['error']}")
        return answer

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _name(self) -> str:
        return f"engine {self.job.engine} ({self.job.precision})"

    def _last_words(self) -> str:
        code = self._process.poll()
        words = self._log.read_text(errors="replace").strip()[-500:]
        return words or f"exit status {code}"


def _environment(job: Job) -> dict[str, str]:
    """The parent's, with its import path: a checkout need not be installed."""
    limit = ENGINES[job.engine].isa_limit
    limited = limit(job.max_isa) if limit is not None and job.max_isa is not None else {}
    return {**os.environ, **limited, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def _close(stream: IO[str]) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        return
