"""Timing candidates on this machine, one after another, each in a process of its own."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lepton_tvm.errors import InputError
from lepton_tvm.measure.machine import this_machine
from lepton_tvm.workers.scratch_folders import Scratch
from lepton_tvm.workers.trial_requests import RunRequest, RunResult
from lepton_tvm.workers.worker_wire import receive, run_result, send, to_json
from lepton_tvm.workers.zygote_parent import Worker, Zygote, describe_end, out_of_time

__all__ = ["LocalRunner"]


class LocalRunner:
    """Runs kernels on this machine, each beside its reference in a process forked for it.

    A candidate that crashes, or is not done after `timeout_s` seconds, costs one trial; one that
    wants more than about 1 GiB beyond its arguments crashes. Nothing else may compute meanwhile, or
    the times are worthless: build first, then run. For one thread at a time; a context manager.
    """

    def __init__(self, timeout_s: float = 10.0, *, folder: str | Path | None = None) -> None:
        if not timeout_s > 0:
            raise InputError(f"a runner needs time for each kernel, found {timeout_s} s")
        self.timeout_s = timeout_s
        self._scratch = Scratch(folder)
        self._zygote = Zygote("run", self._scratch.path)
        self._zygote.launch()

    @property
    def hardware(self) -> str:
        """The fingerprint of this machine."""
        return this_machine().fingerprint

    def run(self, requests: Sequence[RunRequest]) -> Iterator[RunResult]:
        """One answer for each request, in order; raises TrialError when no process starts."""
        for request in requests:
            yield self._run(request)

    def close(self) -> None:
        """End all processes."""
        self._zygote.close()
        self._scratch.close()

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, request: RunRequest) -> RunResult:
        self._scratch.ensure()
        for _ in range(2):
            worker = self._zygote.fork()
            worker.channel.settimeout(self.timeout_s)
            answer: RunResult | None = None
            late = True
            try:
                answer, late = self._ask(worker, request)
            finally:
                words = worker.last_words()
                status = self._zygote.reap(worker, kill=late)
            if answer is not None:
                return answer
            if late or out_of_time(status):
                error = f"running took more than {self.timeout_s:g} s"
                return RunResult(request.id, "timeout", error=error)
            if status is not None:
                break
            # The zygote was killed and its children with it: not this kernel's doing.
        return RunResult(request.id, "crashed", error=describe_end(status, words))

    def _ask(self, worker: Worker, request: RunRequest) -> tuple[RunResult | None, bool]:
        """The answer, if the process gave one, and whether its time is over."""
        end = time.monotonic() + self.timeout_s
        try:
            send(worker.channel, {"request": to_json(request), "timeout_s": self.timeout_s})
        except OSError:
            return None, False
        waiting = select.poll()
        waiting.register(worker.channel, select.POLLIN)
        if not waiting.poll(max(0.0, end - time.monotonic()) * 1000):
            return None, True
        fields = receive(worker.channel)
        return (None if fields is None else run_result(fields)), False
