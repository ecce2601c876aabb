"""Timing kernels on the devices of a farm: a `Runner` over TVM's RPC tracker."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lepton_tvm.errors import DeviceError, LeptonError
from lepton_tvm.farm.device_artifacts import RemoteArtifacts
from lepton_tvm.farm.device_client import DeviceLost, DeviceSession
from lepton_tvm.farm.device_pool import DevicePool
from lepton_tvm.farm.farm import Farm
from lepton_tvm.farm.request_lanes import Queue
from lepton_tvm.workers.trial_requests import RunRequest, RunResult
from lepton_tvm.workers.worker_wire import run_result

__all__ = ["RpcRunner"]

_ATTEMPTS = 2
#: What a device needs beside the run itself: starting a process, reading files.
_SPARE_S = 60.0


class RpcRunner:
    """Times kernels on all devices of `farm` at once, one kernel at a time on each.

    The kernel's library, its reference and arguments are brought to a device when it lacks them,
    found by their sha256, which is checked there before code is loaded. A device that is lost costs
    a second attempt on another one; new devices of the farm are taken in with the next `run`.

    All devices have one hardware fingerprint and one TVM version: that of most devices at the
    start. Others are left out, and `say` is told so. Devices are held until `close`, but where
    somebody waits for one, half of them, or the only one, are given back between two calls of
    `run`. A device that does not answer for `timeout_s` ends that candidate; `wait_s` is how long
    a device is waited for before DeviceError is raised, where others use all for `busy_s`. Raises
    DeviceError for a tracker that cannot be reached or has no device for us, InputError where
    devices allow fewer than `threads`.
    """

    def __init__(
        self,
        farm: Farm,
        *,
        threads: int = 1,
        timeout_s: float = 10.0,
        wait_s: float = 60.0,
        busy_s: float = 0.0,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._timeout_s = timeout_s
        self._pool = DevicePool(farm, threads=threads, wait_s=wait_s, busy_s=busy_s, say=say)
        self._lanes: list[_Lane] = []
        self._hashes = FileHashes()
        self._say = say

    @property
    def hardware(self) -> str:
        """The fingerprint of the devices."""
        return self._pool.fingerprint

    @property
    def machine(self) -> dict[str, Any]:
        """`Machine.to_json` of the devices."""
        return self._pool.machine

    def run(self, requests: Sequence[RunRequest]) -> Iterator[RunResult]:
        """One answer for each request, as they get ready; what ends early leaves no work behind.

        Raises DeviceError when no device is left and none came within the wait time; results that
        were given before stand.
        """
        if not requests:
            return
        while len(self._lanes) < self._pool.count():
            self._lanes.append(self._new_lane())
        queue = Queue(requests, _ATTEMPTS)
        lanes = self._lanes[: len(requests)]
        threads = [threading.Thread(target=lane.work, args=(queue,), daemon=True) for lane in lanes]
        queue.enter(len(threads))
        for thread in threads:
            thread.start()
        try:
            yield from queue.results()
        finally:
            queue.stop()
            for thread in threads:
                thread.join(self._timeout_s + _SPARE_S)
            self._share()

    def artifacts(self) -> Iterator[RemoteArtifacts]:
        """The devices in turn, for whole artifacts; not for use while `run` is at work.

        Raises DeviceError where none can be had.
        """
        tried = []
        for lane in list(self._lanes):
            place = lane.held()
            if place is not None:
                tried.append(lane)
                yield place
        for _ in range(1 + self._pool.count()):
            if sum(lane.held() is not None for lane in tried) >= self._pool.count():
                return  # all that there are
            self._lanes.append(self._new_lane())
            tried.append(self._lanes[-1])
            yield tried[-1].taken()

    def close(self) -> None:
        """Give all devices back."""
        for lane in self._lanes:
            lane.close()
        self._lanes.clear()

    def _share(self) -> None:
        """Give devices back that others wait for: half of them, or the only one."""
        held = [lane for lane in self._lanes if lane.is_holding]
        with contextlib.suppress(DeviceError):  # no tracker: who needs it will say so
            if held and self._pool.is_wanted():
                for lane in held[: max(1, len(held) // 2)]:
                    lane.close()

    def _new_lane(self) -> _Lane:
        return _Lane(self._pool, self._hashes, self._timeout_s, self._say)


class _Lane:
    """One device at a time, for one thread."""

    def __init__(
        self,
        pool: DevicePool,
        hashes: FileHashes,
        timeout_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._pool, self._hashes, self._timeout_s, self._say = pool, hashes, timeout_s, say
        self._session: DeviceSession | None = None

    @property
    def is_holding(self) -> bool:
        """Whether it has a device."""
        return self._session is not None

    def work(self, queue: Queue) -> None:
        """Do requests of the queue until all are done, or no device can be had."""
        try:
            self._work(queue)
        except LeptonError as e:
            queue.leave(e)
        except Exception as e:  # a fault of ours must not leave the caller waiting
            queue.leave(LeptonError(f"unexpected {type(e).__name__}: {e}"))
        else:
            queue.leave(None)

    def held(self) -> RemoteArtifacts | None:
        """Its device for whole artifacts; None where it has none, or has lost it."""
        if self._session is None:
            return None
        try:
            return RemoteArtifacts(self._session)
        except DeviceLost:
            self.close()
            return None

    def taken(self) -> RemoteArtifacts:
        """A device that no lane holds yet, for whole artifacts."""
        self._session = self._pool.take()
        assert self._session is not None  # nothing told it to stop
        return RemoteArtifacts(self._session)

    def close(self) -> None:
        """Give the device back."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _work(self, queue: Queue) -> None:
        while not queue.over():
            if self._session is None:
                self._session = self._pool.take(queue.over)
                continue
            request = queue.take()
            if request is None:
                return
            try:
                queue.done(self._measure(self._session, request))
            except DeviceLost as e:
                self.close()
                self._say(str(e))
                queue.again(request, str(e))
            except (LeptonError, OSError) as e:
                # the candidate's own faults come as results
                queue.done(RunResult(request.id, "failed", error=str(e), reason="device"))

    def _measure(self, session: DeviceSession, request: RunRequest) -> RunResult:
        files: dict[str, Path] = {}

        def brought(path: str | None) -> str | None:
            if path is None:
                return None
            sha256 = self._hashes.of(path)
            files[sha256] = Path(path)
            return sha256

        body = asdict(request)
        body["path"], body["reference"] = brought(request.path), brought(request.reference)
        for field in ("arguments", "reference_arguments"):
            body[field] = [{**a, "path": brought(a["path"])} for a in body[field]]
        session.send_files(files)
        answer, _ = session.ask(
            "measure",
            {"request": body, "timeout_s": self._timeout_s},
            timeout_s=self._timeout_s + _SPARE_S,
        )
        return run_result(answer["result"])


class FileHashes:
    """The sha256 of files, computed once while they do not change."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int, int], str]] = {}

    def of(self, path: str) -> str:
        """As hex digits. Raises OSError."""
        about = os.stat(path)
        state = (about.st_ino, about.st_size, about.st_mtime_ns)
        known = self._known.get(path)
        if known is not None and known[0] == state:
            return known[1]
        sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        # A file that was written a moment ago may change once more within its time stamp's step.
        if time.time_ns() - about.st_mtime_ns > 10**8:
            self._known[path] = (state, sha256)
        return sha256
