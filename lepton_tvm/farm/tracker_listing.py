"""What a tracker knows, for people and programs to look at."""

from __future__ import annotations

from typing import Any

from lepton_tvm.farm.tracker_client import DeviceInfo, Tracker, parse_address

__all__ = ["list_farm"]


def list_farm(address: str) -> dict[str, Any]:
    """The devices of a tracker as `device list --json` shows them.

    What TVM's own server does not tell is None. Raises InputError for an address that is none,
    DeviceError for a tracker that cannot be reached.
    """
    with Tracker(parse_address(address)) as tracker:
        devices = tracker.devices()
        queues = tracker.summary()["queue_info"]
    totals = {key: sum(d.key == key for d in devices) for key in queues}
    return {
        "tracker": address,
        "devices": [_entry(d, queues, totals) for d in devices],
        "queues": {
            key: {"free": queue["free"], "pending": queue["pending"]}
            for key, queue in queues.items()
        },
    }


def _entry(device: DeviceInfo, queues: dict[str, Any], totals: dict[str, int]) -> dict[str, Any]:
    facts = device.facts
    return {
        "key": device.key,
        "host": device.host,
        "port": device.port,
        "state": _state(device, queues, totals),
        "machine": facts.get("machine"),
        "hardware": device.fingerprint,
        "threads": facts.get("threads"),
        "tvm": (facts.get("versions") or {}).get("tvm"),
        "lepton_tvm": (facts.get("versions") or {}).get("lepton_tvm"),
    }


def _state(device: DeviceInfo, queues: dict[str, Any], totals: dict[str, int]) -> str | None:
    if device.is_ours:
        return "busy" if device.facts.get("busy") else "free"
    free = queues.get(device.key, {}).get("free", 0)
    if free == 0:
        return "busy"
    return "free" if free >= totals.get(device.key, 0) else None
