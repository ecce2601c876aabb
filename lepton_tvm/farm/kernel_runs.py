"""Candidate kernels on a device: checked, then run by the same isolated runner as local ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lepton_tvm.errors import InputError
from lepton_tvm.farm.session_files import SessionFiles

__all__ = ["KernelRuns", "check_threads"]


def check_threads(asked: int, most: int) -> None:
    """Raise InputError for more threads than a device gives."""
    if not 1 <= asked <= most:
        raise InputError(
            f"{asked} threads were asked for, this device gives {most} at most (its --threads)"
        )


class KernelRuns:
    """The runs of one session, one after another, with at most `most_threads` threads."""

    def __init__(self, files: SessionFiles, most_threads: int) -> None:
        self._files = files
        self._most = most_threads
        self._runner: Any = None
        self._timeout_s = 0.0

    def measure(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Time a kernel as the request says; the candidate's file is removed afterwards.

        Raises InputError for files that are not here or have changed, and for too many threads.
        """
        check_threads(request["threads"], self._most)
        from lepton_tvm.workers import worker_wire as wire

        local = wire.run_request(self._with_paths(request))
        runner = self._runner_for(timeout_s)
        (result,) = runner.run([local])
        if request["path"] != request["reference"]:
            self._files.drop(request["path"])
        return {"result": wire.to_json(result)}

    def close(self) -> None:
        """End the runner's processes."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def _runner_for(self, timeout_s: float) -> Any:
        if self._runner is not None and timeout_s != self._timeout_s:
            self.close()
        if self._runner is None:
            from lepton_tvm.workers.local_runner import LocalRunner

            self._runner, self._timeout_s = LocalRunner(timeout_s=timeout_s), timeout_s
        return self._runner

    def _with_paths(self, request: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(request)
        for field in ("path", "reference"):
            if found[field] is not None:
                found[field] = str(self._files.path(found[field], check=True))
        for field in ("arguments", "reference_arguments"):
            found[field] = [{**a, "path": self._argument(a["path"])} for a in found[field]]
        return found

    def _argument(self, sha256: str | None) -> str | None:
        return None if sha256 is None else str(self._files.path(sha256))
