"""Choosing devices of one kind from a tracker, and taking them one by one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lepton_tvm.errors import DeviceError, InputError, TargetError
from lepton_tvm.farm.device_client import DeviceLost, DeviceSession
from lepton_tvm.farm.farm import Farm
from lepton_tvm.farm.rpc_wire import own_version
from lepton_tvm.farm.tracker_client import (
    DeviceInfo,
    Tracker,
    readable_facts,
)
from lepton_tvm.runtime.library import tvm_version
from lepton_tvm.targets import Target, parse_target
from lepton_tvm.targets.cuda import best_arch, gpu_of
from lepton_tvm.targets.driver import Device, Devices

__all__ = ["DevicePool", "farm_target", "gpus_of"]

_LOOK_S = 1.0
_SERVE = "start a device: lepton-tvm device serve --tracker {tracker} --key {key}"


class DevicePool:
    """The devices of a farm that have one hardware fingerprint and this process's TVM version.

    The fingerprint is that of most devices when the pool is made, or `fingerprint`. What is left
    out is told to `say`, once each. Raises DeviceError where no fitting device is known to the
    tracker within `wait_s`, InputError where devices give fewer than `threads`. While there are
    fitting devices, which others use, one is waited for as long as `busy_s`.
    """

    def __init__(
        self,
        farm: Farm,
        *,
        threads: int = 1,
        wait_s: float = 60.0,
        busy_s: float = 0.0,
        fingerprint: str | None = None,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._farm, self._wait_s, self._say = farm, wait_s, say
        self._threads, self._busy_s = threads, busy_s
        self._told: set[str] = set()
        chosen = self._choose(fingerprint)
        self.facts = dict(chosen.facts)
        most = int(chosen.facts["threads"])
        if threads > most:
            raise InputError(
                f"{threads} threads were asked for, the devices of key {farm.key!r} give {most} at "
                "most (their --threads)"
            )

    def count(self) -> int:
        """How many fitting devices the tracker knows, busy ones too; at least 1."""
        return max(1, self._fitting())

    def is_wanted(self) -> bool:
        """Whether somebody waits for a device of the farm."""
        with Tracker(self._farm.address) as tracker:
            return tracker.waiting(self._farm.key) > 0

    def take(self, stop: Callable[[], bool] = lambda: False) -> DeviceSession | None:
        """A session with a fitting device, waiting for a free one; None where `stop` said so.

        Raises DeviceError when the wait time is over.
        """
        end = time.monotonic() + self._wait_s
        last = end + self._busy_s
        # Unfitting ones are held meanwhile: the tracker would give the same one again.
        held: list[DeviceSession] = []
        problem = "none is free"
        try:
            while not stop() and time.monotonic() < last:
                if time.monotonic() >= end:
                    if self._fitting() == 0:
                        break
                    self._tell(
                        f"all devices of key {self._farm.key!r} were busy: one was waited for"
                    )
                    end = min(last, time.monotonic() + self._wait_s)
                try:
                    session = self._request(end, stop)
                    if session is None:
                        continue
                    refusal = self._unfit(session)
                    if refusal is None:
                        return session
                    self._tell(f"left out: device {session.address}: {refusal}")
                    held.append(session)
                except DeviceLost as e:
                    problem = str(e)
                    _pause(_LOOK_S, stop)
        finally:
            for other in held:
                other.close()
        if stop():
            return None
        raise DeviceError(
            f"no device of key {self._farm.key!r} with hardware {self.fingerprint} could be "
            f"had from tracker {self._farm} within {self._wait_s:.0f} s ({problem}); {self._hint()}"
        )

    def _fitting(self) -> int:
        with Tracker(self._farm.address) as tracker:
            return sum(self._refusal(d) is None for d in tracker.devices(self._farm.key))

    def _request(self, end: float, stop: Callable[[], bool]) -> DeviceSession | None:
        with Tracker(self._farm.address) as tracker:
            address = tracker.request(
                self._farm.key, wait_s=max(0.0, end - time.monotonic()), stop=stop
            )
        return None if address is None else DeviceSession(address)

    def _unfit(self, session: DeviceSession) -> str | None:
        facts, _ = session.ask("hello")
        address = session.address
        told = readable_facts(facts)
        return self._refusal(DeviceInfo(self._farm.key, address.host, address.port, told))

    def _refusal(self, device: DeviceInfo) -> str | None:
        """Why a device is not used."""
        problem = _problem(device)
        if problem is not None:
            return problem
        theirs, ours = _hardware(device.facts["machine"]), _hardware(self.machine)
        if theirs != ours:
            return (
                f"its hardware is {theirs}, that of this run is {ours}: "
                "their times must not be mixed; give it a key of its own"
            )
        return None

    def _choose(self, fingerprint: str | None) -> DeviceInfo:
        end = time.monotonic() + self._wait_s
        while True:
            with Tracker(self._farm.address) as tracker:
                found = tracker.devices(self._farm.key)
            fitting = [d for d in found if _problem(d) is None]
            if fingerprint is not None:
                fitting = [d for d in fitting if d.fingerprint == fingerprint]
            if fitting:
                break
            if time.monotonic() > end:
                raise DeviceError(self._nobody(found, fingerprint))
            time.sleep(_LOOK_S)
        counts = Counter(_hardware(d.facts["machine"]) for d in fitting)
        most = max(counts.values())
        chosen = next(d for d in fitting if counts[_hardware(d.facts["machine"])] == most)
        self.machine: dict[str, Any] = dict(chosen.facts["machine"])
        self.fingerprint = str(chosen.fingerprint)
        for device in found:
            refusal = self._refusal(device)
            if refusal is not None:
                self._tell(f"left out: device {device}: {refusal}")
        return chosen

    def _nobody(self, found: list[DeviceInfo], fingerprint: str | None) -> str:
        if not found:
            return f"tracker {self._farm} knows no device of key {self._farm.key!r}; {self._hint()}"
        reasons = "; ".join(f"{d}: {_problem(d) or f'hardware {d.fingerprint}'}" for d in found)
        wanted = f" with hardware {fingerprint}" if fingerprint else ""
        return (
            f"no device of key {self._farm.key!r}{wanted} at tracker {self._farm} can be used: "
            f"{reasons}; {self._hint()}"
        )

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._say(text)

    def _hint(self) -> str:
        return _SERVE.format(tracker=self._farm.tracker, key=self._farm.key)


def farm_target(spec: str | Target, farm: Farm, *, wait_s: float = 60.0) -> Target:
    """What to build for the devices of a farm: their best target for `native`, their cores.

    Raises TargetError where they cannot run the target, DeviceError where the tracker knows no
    fitting device within `wait_s`.
    """
    key = farm.key
    pool = DevicePool(farm, wait_s=wait_s)
    asked = spec.spec if isinstance(spec, Target) else spec
    native = pool.facts.get("target")
    if asked in ("cuda", "cuda:native"):
        target = parse_target(f"cuda:{best_arch(gpus_of(pool.facts))}")
    elif asked != "native":
        target = parse_target(spec)
    elif native is not None:
        target = parse_target(str(native))
    else:
        raise TargetError(f"this version has no target for the devices of key {key!r}: name one")
    cpu, have = pool.machine["cpu"], frozenset(pool.facts["flags"])
    if target.arch != pool.machine["arch"]:
        raise TargetError(
            f"target {target} is for {target.arch}, the devices of key {key!r} ({cpu}) are "
            f"{pool.machine['arch']}; leave the target out to take their best ({native})"
        )
    missing = [f for f in target.features if f not in have]
    if missing:
        raise TargetError(
            f"the devices of key {key!r} ({cpu}) lack {', '.join(missing)}, which target {target} "
            f"needs; leave the target out to take their best ({native})"
        )
    _check_gpu(target, key, pool)
    return replace(target, cores=int(pool.machine["cores"]))


def _check_gpu(target: Target, key: str, pool: DevicePool) -> None:
    """Raise TargetError where the target is for a GPU that the devices do not have."""
    if not target.on_gpu:
        return
    needed, gpus = gpu_of(target).capability, gpus_of(pool.facts)
    if gpus.devices and gpus.devices[0].capability >= needed:
        return
    have = str(gpus.devices[0]) if gpus.devices else "no NVIDIA GPU"
    raise TargetError(
        f"target {target} needs an NVIDIA GPU of compute capability {needed / 10} or newer, the "
        f"devices of key {key!r} ({pool.machine['cpu']}) have {have}"
    )


def gpus_of(facts: Mapping[str, Any]) -> Devices:
    """The GPUs of a device, by what it tells of itself."""
    found = tuple(Device(**gpu) for gpu in facts.get("gpus", ()))
    return Devices(found, None if found else "the device has no NVIDIA GPU")


def _hardware(machine: Mapping[str, Any]) -> str:
    """What must be the same for times to be comparable: the fingerprint, and the GPU if any."""
    gpu = machine.get("gpu")
    return f"{machine['fingerprint']} with {gpu}" if gpu else str(machine["fingerprint"])


def _problem(device: DeviceInfo) -> str | None:
    """Why a device cannot be used at all."""
    if not device.is_ours:
        return (
            "it runs TVM's own RPC server, or another version of ours; start it with "
            f"`lepton-tvm device serve` of lepton_tvm {own_version()}"
        )
    theirs = device.facts.get("versions") or {}
    for name, here in (("tvm", tvm_version()), ("lepton_tvm", own_version())):
        if theirs.get(name) != here:
            return f"it has {name} {theirs.get(name)}, this machine has {here}: install the same"
    return None


def _pause(seconds: float, stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not stop() and time.monotonic() < end:
        time.sleep(0.05)
