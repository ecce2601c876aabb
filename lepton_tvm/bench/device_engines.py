"""Engines in a session on a device; a device's server is given them as a handler.

| command | body | answer |
|---|---|---|
| `engine_lacks` | `engine`, `precision` | `reason` why it cannot run here, or None |
| `engine_open` | `job`: a `Job` with sha256s for files | `version`, `isa`, `number` of the engine |
| `engine_run` | `number`, `runs` | `seconds` of one run; `ran`, `waited` so far |
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_tvm.bench.engine_process import EngineProcess
from lepton_tvm.bench.engines import ENGINES, Job
from lepton_tvm.errors import InputError
from lepton_tvm.farm.kernel_runs import check_threads
from lepton_tvm.farm.session_files import SessionFiles

__all__ = ["Engines", "not_installed"]


def not_installed(engine: str) -> str | None:
    """Why an engine cannot be started in this Python; None where its package is there."""
    if importlib.util.find_spec(ENGINES[engine].module) is not None:
        return None
    return "it is not installed there; pip install 'lepton-tvm[peers]' brings it"


class Engines:
    """The engines that one session has started, each in a process of its own."""

    commands: tuple[str, ...] = ("engine_lacks", "engine_open", "engine_run")

    def __init__(self, files: SessionFiles, folder: Path, most_threads: int) -> None:
        self._files, self._folder, self._most = files, folder, most_threads
        self._open: list[EngineProcess] = []
        # Read now: an engine may leave this process on fewer.
        self._cpus = tuple(sorted(os.sched_getaffinity(0)))

    def do(self, command: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Do one of the commands. Raises InputError, EngineFailed."""
        if command == "engine_lacks":
            return {"reason": self._lacks(body["engine"], body["precision"])}
        if command == "engine_open":
            return self._start(body["job"])
        if command == "engine_run":
            engine = self._open[body["number"]]
            seconds = engine.run(body["runs"])
            return {"seconds": seconds, "ran": engine.ran, "waited": engine.waited}
        raise InputError(f"unknown command {command!r}")

    def close(self) -> None:
        """End all processes."""
        for engine in self._open:
            engine.close()

    def _lacks(self, engine: str, precision: str) -> str | None:
        if engine not in ENGINES:
            raise InputError(f"unknown engine {engine!r}; this device knows {', '.join(ENGINES)}")
        return not_installed(engine) or ENGINES[engine].lacks(precision)

    def _start(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        check_threads(wanted["threads"], self._most)
        own = self._folder / f"engine{len(self._open)}"
        calibration = own / "calibration"
        calibration.mkdir(parents=True)
        for index, sha256 in enumerate(wanted["calibration"]):
            (calibration / f"{index:06d}.npz").symlink_to(self._files.path(sha256))
        # Engines go by the ending of a name; an artifact is checked before its code is loaded.
        model = own / f"model{wanted['ending']}"
        model.symlink_to(self._files.path(wanted["model"], check=True))
        job = Job(
            engine=wanted["engine"],
            precision=wanted["precision"],
            model=str(model),
            inputs=str(self._files.path(wanted["inputs"])),
            calibration=str(calibration),
            threads=wanted["threads"],
            scratch=str(own),
            cpus=self._cpus,
            max_isa=wanted["max_isa"],
        )
        engine = EngineProcess(job)
        self._open.append(engine)
        return {
            "version": engine.version,
            "isa": engine.isa,
            "number": len(self._open) - 1,
        }


def job_to_send(job: Job, hashes: Mapping[str, str], calibration: Sequence[str]) -> dict[str, Any]:
    """A job as `engine_open` takes it; `hashes` gives the sha256 of a path."""
    return {
        "engine": job.engine,
        "precision": job.precision,
        "model": hashes[job.model],
        "ending": Path(job.model).suffix,
        "inputs": hashes[job.inputs],
        "calibration": list(calibration),
        "threads": job.threads,
        "max_isa": job.max_isa,
    }
