"""Whole artifacts loaded side by side: run, and timed in turns on CPUs of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from lepton_tvm.errors import InputError
from lepton_tvm.measure.latency import Rounds, measure_interleaved
from lepton_tvm.measure.machine import Machine, this_machine
from lepton_tvm.measure.pinning import pinned
from lepton_tvm.runtime import Net, load
from lepton_tvm.runtime.loader import check_machine

__all__ = ["ArtifactPlace", "LocalArtifacts"]

Array = npt.NDArray[Any]


class ArtifactPlace(Protocol):
    """Where artifacts are run: this machine or a device. They are named by their sha256."""

    @property
    def machine(self) -> Machine:
        """The machine that times are valid for."""
        ...

    def check(self, manifest: Mapping[str, Any], label: str) -> None:
        """Raise TargetError for an artifact that the machine cannot run."""
        ...

    def open(self, paths: Mapping[str, Path], threads: int) -> dict[str, dict[str, Any]]:
        """Load artifacts with all checks of `runtime.load`; their manifests."""
        ...

    def infer(self, sha256: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one of them once; outputs by name, in the model's order."""
        ...

    def time(
        self, artifacts: Sequence[str], inputs: Mapping[str, Array], rounds: Rounds
    ) -> dict[str, list[float]]:
        """Seconds of one run: a sample for each artifact and round, taken in turns."""
        ...


class LocalArtifacts:
    """Artifacts on this machine."""

    def __init__(self) -> None:
        self._nets: dict[str, Net] = {}

    @property
    def machine(self) -> Machine:
        """This one."""
        return this_machine()

    def check(self, manifest: Mapping[str, Any], label: str) -> None:
        """As `ArtifactPlace` says."""
        check_machine(manifest, label)

    def open(self, paths: Mapping[str, Path], threads: int) -> dict[str, dict[str, Any]]:
        """As `ArtifactPlace` says. Raises ArtifactError and TargetError as `load` does."""
        for sha256, path in paths.items():
            self._nets[sha256] = load(path, threads=threads)
        return {sha256: self._nets[sha256].manifest for sha256 in paths}

    def infer(self, sha256: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `ArtifactPlace` says."""
        net = self._net(sha256)
        found = net(dict(inputs))
        return found if isinstance(found, dict) else {net.outputs[0].name: found}

    def time(
        self, artifacts: Sequence[str], inputs: Mapping[str, Array], rounds: Rounds
    ) -> dict[str, list[float]]:
        """As `ArtifactPlace` says; the first one's run finds the threads to give CPUs to."""
        nets = {sha256: self._net(sha256) for sha256 in artifacts}
        runners = {sha256: net.timer(dict(inputs)) for sha256, net in nets.items()}
        first = artifacts[0]
        cpus = sorted(os.sched_getaffinity(0), reverse=True)
        with pinned(lambda: runners[first](1), nets[first].threads, cpus):
            return measure_interleaved(runners, rounds)

    def _net(self, sha256: str) -> Net:
        if sha256 not in self._nets:
            raise InputError(f"artifact {sha256[:12]} was not opened")
        return self._nets[sha256]
