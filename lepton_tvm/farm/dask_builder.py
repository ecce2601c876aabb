"""Building candidates on the workers of a Dask cluster (extra `distributed`)."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lepton_tvm.errors import InputError, TrialError
from lepton_tvm.farm import dask_worker
from lepton_tvm.workers.scratch_folders import Scratch
from lepton_tvm.workers.trial_requests import BuildRequest, Built
from lepton_tvm.workers.worker_wire import built, to_json

__all__ = ["DaskBuilder"]

_LOOK_S = 1.0
_LATE = (
    TimeoutError,
    asyncio.TimeoutError,
)  # two classes before Python 3.11; Dask raises asyncio's


class DaskBuilder:
    """Builds kernels on all workers of a cluster; the files are brought to this machine.

    `cluster` is a scheduler's address (`tcp://host:8786`, `tls://...`) or a connected
    `distributed.Client`, which stays open. On each worker a kernel is built in a process of its own
    (`ParallelBuilder`), so that a crash or `timeout_s` costs that kernel only; one process of a
    worker builds one kernel at a time, so start workers with `--nthreads 1`. Kernels of a worker
    that dies are built by another one. Files lie in a folder of this builder and go at `close()`.

    Raises InputError where Dask is not installed or the address is none, TrialError where no worker
    comes within `wait_s` seconds or one has other versions than this process.

    Dask sends pickled Python objects between its processes: whoever reaches the scheduler can run
    code on all of them and here. Trust the network, or use TLS.
    """

    def __init__(
        self,
        cluster: Any,
        *,
        timeout_s: float = 30.0,
        wait_s: float = 60.0,
        folder: str | Path | None = None,
    ) -> None:
        if not timeout_s > 0:
            raise InputError(f"a builder needs time for each kernel, found {timeout_s} s")
        self._timeout_s, self._wait_s = timeout_s, wait_s
        self._owned = isinstance(cluster, str)
        self._client = _connected(cluster, wait_s) if self._owned else cluster
        try:
            self._check_workers()
            self._scratch = Scratch(folder)
        except BaseException:
            self._leave()
            raise

    @property
    def workers(self) -> int:
        """How many kernels are built at a time: the processes of the cluster."""
        return len(self._threads())

    @property
    def folder(self) -> Path:
        """Where the built files lie."""
        return self._scratch.path

    def build(self, requests: Sequence[BuildRequest]) -> Iterator[Built]:
        """One answer for each request, as they get ready.

        Raises TrialError when the scheduler is gone, or no worker is left and none comes back
        within the wait time; what was given before stands. Leaving early cancels the rest.
        """
        here = dask_worker.versions()
        pending = {
            self._client.submit(
                dask_worker.build, to_json(r), self._timeout_s, here, pure=False, key=_key(r, i)
            ): r.id
            for i, r in enumerate(requests)
        }
        total, seen = len(pending), time.monotonic()
        try:
            while pending:
                done = self._finished(list(pending))
                if done or self._threads():
                    seen = time.monotonic()
                elif time.monotonic() - seen > self._wait_s:
                    raise TrialError(
                        f"{total - len(pending)} of {total} kernels were built, then the Dask "
                        f"cluster {self._address()} had no worker for {self._wait_s:.0f} s; start "
                        "workers: dask worker --nthreads 1"
                    )
                for future in done:
                    yield self._answer(future, pending.pop(future))
        finally:
            if pending:
                self._client.cancel(list(pending), force=True)

    def close(self) -> None:
        """Remove the files that were built; the workers stay."""
        self._scratch.close()
        self._leave()

    def __enter__(self) -> DaskBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _finished(self, futures: list[Any]) -> list[Any]:
        """Those that have ended, waiting a moment for one."""
        from distributed import wait

        if self._client.status not in ("running", "connecting"):
            raise TrialError(f"the Dask scheduler {self._address()} is gone")
        try:
            with self._client.as_current():
                ended = wait(futures, timeout=_LOOK_S, return_when="FIRST_COMPLETED")
            return list(ended.done)
        except _LATE:
            return []

    def _answer(self, future: Any, name: str) -> Built:
        if future.status != "finished":
            error = future.exception() if future.status == "error" else "it was cancelled"
            text = f"the Dask cluster gave the build up: {type(error).__name__}: {error}"
            return Built(name, "crashed", None, text, 0.0)
        fields, code = future.result()
        answer = built(fields)
        if answer.state != "ok":
            return answer
        handle, path = tempfile.mkstemp(prefix="kernel-", suffix=".so", dir=self.folder)
        with open(handle, "wb") as file:
            file.write(code)
        return built({**fields, "path": path})

    def _check_workers(self) -> None:
        """Raises TrialError for a worker whose versions are not ours."""
        try:
            self._client.wait_for_workers(1, timeout=self._wait_s)
        except _LATE as e:
            raise TrialError(
                f"the Dask cluster {self._address()} has no worker after {self._wait_s:.0f} s; "
                f"start one: dask worker {self._address()} --nthreads 1"
            ) from e
        here = dask_worker.versions()
        try:
            found = self._client.run(dask_worker.versions)
        except Exception as e:  # what it is depends on what the worker lacks
            raise TrialError(
                f"a worker of the Dask cluster {self._address()} cannot load lepton_tvm "
                f"({type(e).__name__}: {e}); install lepton-tvm {here['lepton_tvm']} there"
            ) from e
        for worker, theirs in found.items():
            problem = dask_worker.difference(theirs, here)
            if problem:
                raise TrialError(f"Dask worker {worker} {problem}")

    def _threads(self) -> dict[str, int]:
        try:
            return dict(self._client.nthreads())
        except (OSError, *_LATE) as e:
            raise TrialError(f"the Dask scheduler {self._address()} is gone ({e})") from e

    def _address(self) -> str:
        scheduler = getattr(self._client, "scheduler", None)
        return str(getattr(scheduler, "address", "") or "that was given")

    def _leave(self) -> None:
        if self._owned:
            self._client.close()


def _connected(address: str, wait_s: float) -> Any:
    try:
        from distributed import Client
    except ImportError as e:
        raise InputError(
            "building on a Dask cluster needs Dask: pip install 'lepton-tvm[distributed]'"
        ) from e
    scheme, separator, rest = address.partition("://")
    if not separator or scheme not in ("tcp", "tls", "ucx", "ws", "wss") or not rest:
        raise InputError(
            f"--builders {address!r} is not the address of a Dask scheduler, for example "
            "tcp://127.0.0.1:8786"
        )
    try:
        return Client(address, timeout=wait_s, set_as_default=False)
    except (OSError, ValueError, *_LATE) as e:
        raise TrialError(
            f"the Dask scheduler {address} cannot be reached ({e}); start one: dask scheduler"
        ) from e


def _key(request: BuildRequest, index: int) -> str:
    return f"lepton-{request.id}-{index}-{time.time_ns():x}"
