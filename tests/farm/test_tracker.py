"""What a tracker tells: anybody may have told it anything."""

from __future__ import annotations

from typing import Any

import pytest

from lepton_tvm.farm import DeviceSession, Farm
from lepton_tvm.farm.device_pool import farm_target
from lepton_tvm.farm.tracker_client import Tracker
from lepton_tvm.farm.tracker_listing import list_farm
from tests.support import servers


@pytest.mark.parametrize(
    ("port", "facts"),
    [
        ("abc", {}),
        (1, {"machine": "abc", "versions": 3, "threads": 1, "flags": []}),
        (1, {"machine": {"fingerprint": [1]}, "versions": {}, "threads": "many", "flags": []}),
    ],
)
def test_what_cannot_be_read_of_one_server_harms_no_other(
    tracker: servers.Running, lone: servers.Running, port: Any, facts: dict[str, Any]
) -> None:
    address = ("127.0.0.1", tracker.port)
    with DeviceSession(lone.device) as session:
        told, _ = session.ask("hello")
    with Tracker(address) as other:
        other.enlist("fine", "127.0.0.1", lone.port, told)
        with Tracker(address) as bad:
            bad.enlist("fine\x1b[31m", "127.0.0.1", port, facts)
            found = list_farm(tracker.address)["devices"]
            assert [d["hardware"] for d in found if d["key"] == "fine"] == [
                told["machine"]["fingerprint"]
            ]
            assert all(d["key"].isprintable() for d in found)
            assert farm_target("native", Farm(tracker.address, "fine")).cores
