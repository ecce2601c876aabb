"""Building candidates on this machine, several at a time, each in a process that may fail."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lepton_tvm.errors import InputError
from lepton_tvm.workers.scratch_folders import Scratch, is_full, told_reason
from lepton_tvm.workers.trial_requests import BuildRequest, Built
from lepton_tvm.workers.worker_wire import built, receive, send, to_json
from lepton_tvm.workers.zygote_parent import Worker, Zygote, describe_end, out_of_time

__all__ = ["ParallelBuilder"]

# TVM keeps some memory of every build; a new child starts from the zygote's.
_BUILDS_PER_WORKER = 500


@dataclass
class _Desk:
    """A worker, how many kernels it has built, and the request it is at: since when, and where."""

    worker: Worker
    built: int = 0
    request: BuildRequest | None = None
    started: float = 0.0
    path: Path = Path()


class ParallelBuilder:
    """Builds kernels in `workers` forked processes (default: the CPUs that may be used).

    The processes start with the compiler loaded. One that crashes, or takes more than `timeout_s`
    seconds for a kernel, costs that kernel only. Files lie in a folder of this builder; each may be
    deleted by whoever is done with it, all go at `close()`. Building uses all workers' CPUs: do not
    time anything meanwhile. For one thread at a time; a context manager.
    """

    def __init__(
        self,
        workers: int | None = None,
        timeout_s: float = 30.0,
        *,
        folder: str | Path | None = None,
    ) -> None:
        count = len(os.sched_getaffinity(0)) if workers is None else workers
        if count < 1 or not timeout_s > 0:
            raise InputError(f"a builder needs workers and time, found {count} and {timeout_s} s")
        self.workers, self.timeout_s = count, timeout_s
        self._scratch = Scratch(folder)
        self._zygote = Zygote("build", self._scratch.path)
        self._zygote.launch()
        self._desks: list[_Desk] = []
        self._waiting: deque[BuildRequest] = deque()
        self._serial = 0
        self._again: set[str] = set()

    @property
    def folder(self) -> Path:
        """Where the built files lie."""
        return self._scratch.path

    def build(self, requests: Sequence[BuildRequest]) -> Iterator[Built]:
        """One answer for each request, as they get ready; raises TrialError when no process starts.

        Leaving the iteration early ends what is being built.
        """
        self._waiting, self._again = deque(requests), set()
        try:
            self._hand_out()
            while any(desk.request for desk in self._desks):
                done = self._collect()
                self._hand_out()
                yield from done
        finally:
            self._waiting.clear()
            for desk in [d for d in self._desks if d.request is not None]:
                self._dismiss(desk, kill=True)

    def close(self) -> None:
        """End all processes and remove the files that were built."""
        for desk in list(self._desks):
            self._dismiss(desk, kill=True)
        self._zygote.close()
        self._scratch.close()

    def __enter__(self) -> ParallelBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hand_out(self) -> None:
        self._scratch.ensure()
        while self._waiting:
            free = [desk for desk in self._desks if desk.request is None]
            if not free and len(self._desks) >= self.workers:
                return
            if not free:
                free = [_Desk(self._zygote.fork())]
                self._seat(free[0].worker.pid)
                free[0].worker.channel.settimeout(self.timeout_s)
                self._desks += free
            if self._give(free[0], self._waiting[0]):
                self._waiting.popleft()

    def _seat(self, pid: int) -> None:
        """Give a new worker a CPU of its own: some systems leave two busy processes on one."""
        cpus = sorted(os.sched_getaffinity(0))
        if self.workers != len(cpus):
            return
        taken = set()
        for desk in self._desks:
            with contextlib.suppress(OSError):
                taken |= os.sched_getaffinity(desk.worker.pid)
        left = [cpu for cpu in cpus if cpu not in taken]
        with contextlib.suppress(OSError):  # it has ended already, or the system forbids it
            os.sched_setaffinity(pid, {left[0] if left else cpus[0]})

    def _give(self, desk: _Desk, request: BuildRequest) -> bool:
        self._serial += 1
        desk.path = self.folder / f"kernel-{self._serial}.so"
        message = {"request": to_json(request), "path": str(desk.path)}
        try:
            send(desk.worker.channel, {**message, "timeout_s": self.timeout_s})
        except OSError:  # it ended while it had nothing to do
            self._dismiss(desk, kill=True)
            return False
        desk.request, desk.started = request, time.monotonic()
        return True

    def _collect(self) -> list[Built]:
        """Wait until something is ready or over its time; the answers."""
        busy = {d.worker.channel.fileno(): d for d in self._desks if d.request is not None}
        poll = select.poll()
        for descriptor in busy:
            poll.register(descriptor, select.POLLIN)
        first = min(desk.started for desk in busy.values()) + self.timeout_s
        ready = {d for d, _ in poll.poll(max(0.0, first - time.monotonic()) * 1000 + 1)}
        answers = [a for d in ready if (a := self._answer(busy[d])) is not None]
        now = time.monotonic()
        for descriptor, desk in busy.items():
            if descriptor not in ready and now >= desk.started + self.timeout_s:
                answers.append(self._overdue(desk))
        return answers

    def _answer(self, desk: _Desk) -> Built | None:
        """What the worker says, or its end; None where the request is to be built again."""
        request = desk.request
        assert request is not None
        fields = receive(desk.worker.channel)
        if fields is None:
            seconds = time.monotonic() - desk.started
            words = desk.worker.last_words()
            status = self._dismiss(desk, kill=False)
            if status is None and request.id not in self._again:
                # The zygote was killed and its children with it: not this kernel's doing.
                self._again.add(request.id)
                self._waiting.appendleft(request)
                return None
            if out_of_time(status):
                return self._too_long(request, seconds)
            if is_full(self.folder):  # of which LLVM and linkers die
                told = told_reason("disk-full", self.folder)
                return Built(request.id, "failed", None, told, seconds, reason="disk-full")
            return Built(request.id, "crashed", None, describe_end(status, words), seconds)
        desk.request, desk.built = None, desk.built + 1
        if desk.built >= _BUILDS_PER_WORKER:
            self._dismiss(desk, kill=False)
        return built(fields)

    def _overdue(self, desk: _Desk) -> Built:
        assert desk.request is not None
        answer = self._too_long(desk.request, time.monotonic() - desk.started)
        self._dismiss(desk, kill=True)
        return answer

    def _too_long(self, request: BuildRequest, seconds: float) -> Built:
        error = f"building took more than {self.timeout_s:g} s"
        return Built(request.id, "timeout", None, error, seconds)

    def _dismiss(self, desk: _Desk, *, kill: bool) -> int | None:
        self._desks.remove(desk)
        status = self._zygote.reap(desk.worker, kill=kill)
        if desk.request is not None:
            desk.request = None
            for left in self.folder.glob(f"{desk.path.stem}.*"):
                left.unlink(missing_ok=True)
        return status
