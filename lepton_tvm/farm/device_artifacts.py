"""Artifacts on a device, for those who compare and bench."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lepton_tvm.errors import DeviceError
from lepton_tvm.farm.device_client import DeviceSession
from lepton_tvm.farm.device_pool import DevicePool, gpus_of
from lepton_tvm.farm.farm import Farm
from lepton_tvm.measure.latency import Rounds
from lepton_tvm.measure.machine import Machine
from lepton_tvm.measure.timing_inputs import read_arrays, write_arrays
from lepton_tvm.runtime.loader import check_machine

__all__ = ["RemoteArtifacts", "arrays_from", "arrays_to", "device_session", "remote_artifacts"]

Array = npt.NDArray[Any]

# Loading a large artifact, or a whole run of a slow model, on a slow device.
_LOAD_S = 300.0
_RUN_S = 600.0
_TIME_S = 7200.0


class RemoteArtifacts:
    """An `ArtifactPlace` on the device of a session; files are brought when it lacks them."""

    def __init__(self, session: DeviceSession) -> None:
        self._session = session
        facts, _ = session.ask("hello")
        self.flags = frozenset(facts["flags"])
        self.threads = int(facts["threads"])
        self.gpus = gpus_of(facts)
        self._machine = Machine.from_json(facts["machine"])

    @property
    def machine(self) -> Machine:
        """The device's."""
        return self._machine

    def check(self, manifest: Mapping[str, Any], label: str) -> None:
        """Raise TargetError for an artifact that the device cannot run."""
        check_machine(manifest, label, flags=self.flags, arch=self._machine.arch, devices=self.gpus)

    def open(self, paths: Mapping[str, Path], threads: int) -> dict[str, dict[str, Any]]:
        """Bring and load artifacts; the device checks their hashes, then loads as `load` does."""
        self._session.send_files(paths)
        body = {"artifacts": list(paths), "threads": threads}
        answer, _ = self._session.ask("open", body, timeout_s=_LOAD_S)
        return dict(answer["opened"])

    def infer(self, sha256: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one artifact once on the device."""
        body = {"artifact": sha256}
        _, data = self._session.ask("infer", body, arrays_to(inputs), timeout_s=_RUN_S)
        return arrays_from(data)

    def time(
        self, artifacts: Sequence[str], inputs: Mapping[str, Array], rounds: Rounds
    ) -> dict[str, list[float]]:
        """Time in turns on the device: nothing of the network is in the samples."""
        body = {"artifacts": list(artifacts), "rounds": asdict(rounds)}
        answer, _ = self._session.ask("time", body, arrays_to(inputs), timeout_s=_TIME_S)
        return {sha256: [float(s) for s in answer["seconds"][sha256]] for sha256 in artifacts}

    def time_kernels(
        self, artifacts: Sequence[str], inputs: Mapping[str, Array], rounds: Rounds
    ) -> dict[str, list[list[float]]]:
        """Time the kernels of whole runs in turns on the device."""
        body = {"artifacts": list(artifacts), "rounds": asdict(rounds)}
        answer, _ = self._session.ask("time_kernels", body, arrays_to(inputs), timeout_s=_TIME_S)
        rows = answer["seconds"]
        return {sha256: [[float(s) for s in row] for row in rows[sha256]] for sha256 in artifacts}


@contextmanager
def device_session(
    farm: Farm, *, threads: int = 1, wait_s: float = 60.0
) -> Iterator[DeviceSession]:
    """One free device of the farm, held meanwhile. Raises what `DevicePool` raises."""
    session = DevicePool(farm, threads=threads, wait_s=wait_s).take()
    if session is None:
        raise DeviceError(f"no device of key {farm.key!r} was given")
    with session:
        yield session


@contextmanager
def remote_artifacts(
    farm: Farm, *, threads: int = 1, wait_s: float = 60.0
) -> Iterator[RemoteArtifacts]:
    """The same for running artifacts."""
    with device_session(farm, threads=threads, wait_s=wait_s) as session:
        yield RemoteArtifacts(session)


def arrays_to(arrays: Mapping[str, Array]) -> bytes:
    """Arrays as a .npz, any names."""
    out = io.BytesIO()
    write_arrays(out, arrays)
    return out.getvalue()


def arrays_from(data: bytes) -> dict[str, Array]:
    """The inverse of `arrays_to`; objects are refused."""
    return read_arrays(io.BytesIO(data))
