"""Where engines are timed: in processes of this machine, or of a device."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lepton_tvm.bench.device_engines import job_to_send
from lepton_tvm.bench.engine_process import EngineFailed, EngineProcess
from lepton_tvm.bench.engines import ENGINES, Job
from lepton_tvm.errors import LeptonError
from lepton_tvm.farm import Farm
from lepton_tvm.farm.device_artifacts import device_session
from lepton_tvm.farm.device_client import DeviceLost, DeviceSession
from lepton_tvm.measure import Machine, this_machine

__all__ = ["Engine", "EnginePlace", "LocalEngines", "busy_machine", "engine_place"]

_START_S = 900.0  # a peer may quantize the model first
_RUN_S = 900.0
# Share of the time without a CPU from which on a benchmark says so.
_MOST_WAITING = 0.02


class Engine(Protocol):
    """An engine with a model loaded."""

    job: Job
    version: str
    isa: str
    ran: float
    waited: float

    def run(self, number: int) -> float:
        """Run `number` times; seconds of one run."""
        ...

    def close(self) -> None:
        """End its process."""
        ...


class EnginePlace(Protocol):
    """A machine that engines are timed on; `cpus` are those that they may use."""

    @property
    def machine(self) -> Machine:
        """The machine."""
        ...

    @property
    def cpus(self) -> tuple[int, ...]:
        """The numbers of the CPUs."""
        ...

    def lacks(self, engine: str, precision: str) -> str | None:
        """Why an engine does not run a precision there; None where it does."""
        ...

    def start(self, job: Job) -> Engine:
        """A process of its own. Raises EngineFailed."""
        ...


class LocalEngines:
    """This machine."""

    def __init__(self) -> None:
        # Read now: compiling may leave this process pinned to one core.
        self.cpus = tuple(sorted(os.sched_getaffinity(0)))

    @property
    def machine(self) -> Machine:
        """This one."""
        return this_machine()

    def lacks(self, engine: str, precision: str) -> str | None:
        """As `EnginePlace` says."""
        return ENGINES[engine].lacks(precision)

    def start(self, job: Job) -> Engine:
        """As `EnginePlace` says."""
        return EngineProcess(job)


class _RemoteEngines:
    """The device of a session. Its processes time themselves; only commands cross the network."""

    def __init__(self, session: DeviceSession) -> None:
        self._session = session
        facts, _ = session.ask("hello")
        self.machine = Machine.from_json(facts["machine"])
        self.cpus = tuple(range(self.machine.cores))

    def lacks(self, engine: str, precision: str) -> str | None:
        """As `EnginePlace` says; also where it is not installed there."""
        body = {"engine": engine, "precision": precision}
        answer, _ = self._session.ask("engine_lacks", body)
        return None if answer["reason"] is None else str(answer["reason"])

    def start(self, job: Job) -> Engine:
        """As `EnginePlace` says; brings the files first."""
        samples = sorted(Path(job.calibration).glob("*.npz"))
        paths = [Path(job.model), Path(job.inputs), *samples]
        hashes = {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
        self._session.send_files({hashes[str(p)]: p for p in paths})
        wanted = job_to_send(job, hashes, [hashes[str(p)] for p in samples])
        try:
            told, _ = self._session.ask("engine_open", {"job": wanted}, timeout_s=_START_S)
        except DeviceLost:
            raise
        except LeptonError as e:
            raise EngineFailed(str(e)) from e
        return _RemoteEngine(job, told["version"], told["isa"], self._session, told["number"])


@dataclass
class _RemoteEngine:
    job: Job
    version: str
    isa: str
    session: DeviceSession
    number: int
    ran: float = 0.0
    waited: float = 0.0

    def run(self, number: int) -> float:
        body = {"number": self.number, "runs": number}
        answer, _ = self.session.ask("engine_run", body, timeout_s=_RUN_S)
        self.ran, self.waited = float(answer["ran"]), float(answer["waited"])
        return float(answer["seconds"])

    def close(self) -> None:
        """It ends with the session."""


@contextmanager
def engine_place(farm: Farm | None, threads: int) -> Iterator[Any]:
    """This machine where no farm is given; else a free device of it, held meanwhile."""
    if farm is None:
        yield LocalEngines()
        return
    with device_session(farm, threads=threads) as session:
        yield _RemoteEngines(session)


def busy_machine(processes: Sequence[Engine], cpus: int) -> list[str]:
    """A warning where the threads of an engine had to share CPUs, with others or each other."""
    threads = max((p.job.threads for p in processes), default=0)
    if threads > cpus:
        return [f"{threads} threads shared {cpus} CPU(s): these are not times of {threads} CPUs"]
    possible = sum(p.ran * p.job.threads for p in processes)
    share = min(sum(p.waited for p in processes) / possible, 1.0) if possible else 0.0
    if share < _MOST_WAITING:
        return []
    return [
        f"the CPUs were shared with other work: threads waited {share:.0%} of the time, "
        "and long runs look worse than they are; measure again on an idle machine"
    ]
