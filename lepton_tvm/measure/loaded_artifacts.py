"""Whole artifacts loaded side by side: run, and timed in turns on CPUs of their own."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from lepton_tvm.errors import InputError
from lepton_tvm.measure.latency import Rounds, in_turns, measure_interleaved
from lepton_tvm.measure.machine import Machine, this_machine
from lepton_tvm.measure.pinning import pinned
from lepton_tvm.runtime import Net, load
from lepton_tvm.runtime.call_times import CallProfiler
from lepton_tvm.runtime.loader import check_machine

__all__ = ["ArtifactPlace", "LocalArtifacts"]

Array = npt.NDArray[Any]

# Where an artifact happens to lie in memory makes single kernels up to a third slower or faster, so
# that two loaded copies of one artifact differ: times are taken of so many.
_INSTANCES = 3


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

    def time_kernels(
        self, artifacts: Sequence[str], inputs: Mapping[str, Array], rounds: Rounds
    ) -> dict[str, list[list[float]]]:
        """Seconds of every kernel in one run, in order: a row for each round, taken in turns."""
        ...


class LocalArtifacts:
    """Artifacts on this machine."""

    def __init__(self) -> None:
        self._nets: dict[str, Net] = {}
        self._opened: dict[str, tuple[Path, int]] = {}

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
            self._opened[sha256] = path, threads
        return {sha256: self._nets[sha256].manifest for sha256 in paths}

    def infer(self, sha256: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `ArtifactPlace` says."""
        net = self._net(sha256)
        found = net(dict(inputs))
        return found if isinstance(found, dict) else {net.outputs[0].name: found}

    def time(
        self, artifacts: Sequence[str], inputs: Mapping[str, Array], rounds: Rounds
    ) -> dict[str, list[float]]:
        """As `ArtifactPlace` says, of several instances of each artifact, one set after another."""
        found: dict[str, list[float]] = {sha256: [] for sha256 in artifacts}
        for nets in self._instances(artifacts):
            runners = {sha256: net.timer(dict(inputs)) for sha256, net in nets.items()}
            first = artifacts[0]
            with pinned(lambda: runners[first](1), nets[first].threads, _cpus()):  # noqa: B023
                samples = measure_interleaved(runners, _share(rounds))
            for sha256, taken in samples.items():
                found[sha256] += taken
        return found

    def time_kernels(
        self, artifacts: Sequence[str], inputs: Mapping[str, Array], rounds: Rounds
    ) -> dict[str, list[list[float]]]:
        """As `ArtifactPlace` says, of several instances of each artifact, one set after another.

        `rounds.warmup_s` is not used: one run warms up for each sample.
        """
        found: dict[str, list[list[float]]] = {sha256: [] for sha256 in artifacts}
        opened = {sha256: self._place(sha256) for sha256 in artifacts}
        self._nets.clear()  # many may be profiled at once; loaded again where they are asked for
        for _ in range(_INSTANCES):
            # Those made before are let go after these are made, or these would take their places.
            made = {
                sha256: CallProfiler(path, dict(inputs), threads)
                for sha256, (path, threads) in opened.items()
            }
            with pinned(made[artifacts[0]].run, opened[artifacts[0]][1], _cpus()):
                taken = in_turns({k: partial(_kernels, p) for k, p in made.items()}, _share(rounds))
            for sha256, rows in taken.items():
                found[sha256] += rows
        return found

    def _instances(self, artifacts: Sequence[str]) -> Iterator[dict[str, Net]]:
        """Loaded artifacts in other places of the memory each time."""
        opened = {sha256: self._net(sha256) for sha256 in artifacts}
        yield opened
        for _ in range(_INSTANCES - 1):
            yield {sha256: load(net.path, threads=net.threads) for sha256, net in opened.items()}

    def _net(self, sha256: str) -> Net:
        path, threads = self._place(sha256)
        if sha256 not in self._nets:
            self._nets[sha256] = load(path, threads=threads)
        return self._nets[sha256]

    def _place(self, sha256: str) -> tuple[Path, int]:
        """Where an opened artifact lies, and the threads it was opened with."""
        if sha256 not in self._opened:
            raise InputError(f"artifact {sha256[:12]} was not opened")
        return self._opened[sha256]


def _share(rounds: Rounds) -> Rounds:
    """What one of the instances gets of `rounds`."""
    return replace(
        rounds,
        least=math.ceil(rounds.least / _INSTANCES),
        most=math.ceil(rounds.most / _INSTANCES),
        budget_s=rounds.budget_s / _INSTANCES,
    )


def _kernels(profiler: CallProfiler) -> list[float]:
    """Seconds of each kernel in one run."""
    calls = zip(profiler.names, profiler.run()[1], strict=True)
    return [seconds for name, seconds in calls if not name.startswith("vm.")]


def _cpus() -> list[int]:
    """This process's, from the last one down: the first one serves most interrupts."""
    return sorted(os.sched_getaffinity(0), reverse=True)
