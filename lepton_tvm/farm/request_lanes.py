"""Requests shared out to several devices: each is answered once, also when devices get lost."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence

from lepton_tvm.errors import DeviceError, LeptonError
from lepton_tvm.workers.trial_requests import RunRequest, RunResult

__all__ = ["Queue"]


class Queue:
    """Requests that are waiting, at work and answered; used by one thread for each device.

    A request is given out `attempts` times at most, then answered as `crashed`.
    """

    def __init__(self, requests: Sequence[RunRequest], attempts: int) -> None:
        self._total = len(requests)
        self._attempts = attempts
        self._waiting = deque((r, 1) for r in requests)
        self._at_work: dict[str, int] = {}
        self._results: deque[RunResult] = deque()
        self._answered = 0
        self._workers = 0
        self._problem: LeptonError | None = None
        self._stopped = False
        self._changed = threading.Condition()

    def enter(self, workers: int) -> None:
        """So many threads are going to work, and will `leave`."""
        self._workers += workers

    def take(self) -> RunRequest | None:
        """The next request, waiting for one that may come back; None when all is done."""
        with self._changed:
            while not self._waiting and self._at_work and not self._stopped:
                self._changed.wait(1.0)
            if self._stopped or not self._waiting:
                return None
            request, attempt = self._waiting.popleft()
            self._at_work[request.id] = attempt
            return request

    def done(self, result: RunResult) -> None:
        """A request is answered."""
        with self._changed:
            self._at_work.pop(result.id, None)
            self._answer(result)

    def again(self, request: RunRequest, why: str) -> None:
        """The device was lost under a request: another one shall try, unless one has before."""
        with self._changed:
            attempt = self._at_work.pop(request.id)
            if attempt < self._attempts:
                self._waiting.appendleft((request, attempt + 1))
                self._changed.notify_all()
                return
            text = f"the device was lost {attempt} times under this kernel, last: {why}"
            self._answer(RunResult(request.id, "crashed", error=text))

    def leave(self, problem: LeptonError | None) -> None:
        """A thread stops working; `problem` says why it has no device."""
        with self._changed:
            self._workers -= 1
            self._problem = problem or self._problem
            self._changed.notify_all()

    def over(self) -> bool:
        """Whether there is nothing left to be done."""
        with self._changed:
            return self._stopped or self._answered == self._total

    def stop(self) -> None:
        """Give out nothing more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def results(self) -> Iterator[RunResult]:
        """Answers as they come. Raises DeviceError when all threads have left before the end."""
        for count in range(self._total):
            with self._changed:
                while not self._results and self._workers:
                    self._changed.wait(1.0)
                if not self._results:
                    why = self._problem or "the devices stopped"
                    raise DeviceError(f"{count} of {self._total} kernels were timed, then: {why}")
                result = self._results.popleft()
            yield result

    def _answer(self, result: RunResult) -> None:
        self._results.append(result)
        self._answered += 1
        self._changed.notify_all()
