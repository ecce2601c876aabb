"""Which devices of a farm a runner takes, and which it leaves out."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from lepton_tvm.errors import DeviceError, InputError
from lepton_tvm.farm import Farm
from lepton_tvm.farm.device_pool import DevicePool
from lepton_tvm.farm.remote_runner import RpcRunner
from lepton_tvm.farm.tracker_client import Tracker
from lepton_tvm.measure import this_machine
from tests.support import servers


def test_more_threads_than_devices_allow_are_refused(tracker: servers.Running, work: Path) -> None:
    with servers.devices(work, tracker, "narrow", 1, "--threads", "2"):
        with pytest.raises(InputError, match=r"3 threads were asked for, the devices .* give 2"):
            RpcRunner(Farm(tracker.address, "narrow"), threads=3)
        RpcRunner(Farm(tracker.address, "narrow"), threads=2).close()


def test_tvm_s_own_server_is_told_from_ours(tracker: servers.Running) -> None:
    with Tracker(servers.where(tracker)) as stock:
        stock.enlist("stock", "127.0.0.1", 1, {})
        with pytest.raises(DeviceError, match=r"TVM's own RPC server.*lepton-tvm device serve"):
            RpcRunner(Farm(tracker.address, "stock"), wait_s=0.5)


def test_other_hardware_and_other_versions_are_left_out(
    tracker: servers.Running, libraries: dict[str, str], work: Path
) -> None:
    """A second and a third device are only told to the tracker; connecting to them would fail."""
    told: list[str] = []
    with (
        ExitStack() as stack,
        servers.devices(work, tracker, "mixed", 1),
        Tracker(servers.where(tracker)) as other,
    ):
        (real,) = (d for d in other.devices("mixed") if d.is_ours)
        machine = {**real.facts["machine"], "cpu": "zz", "fingerprint": "f" * 16}
        other.enlist("mixed", "127.0.0.1", 1, {**real.facts, "machine": machine})
        with_gpu = {**real.facts["machine"], "gpu": "a GPU"}
        fourth = stack.enter_context(Tracker(servers.where(tracker)))
        fourth.enlist("mixed", "127.0.0.1", 65535, {**real.facts, "machine": with_gpu})
        with Tracker(servers.where(tracker)) as third:
            third.enlist("mixed", "127.0.0.1", 2, {**real.facts, "versions": {"tvm": "0.1"}})
            pool = DevicePool(
                Farm(tracker.address, "mixed"),
                wait_s=5,
                fingerprint=this_machine().fingerprint,
                say=told.append,
            )
            assert pool.count() == 1
            with pytest.raises(DeviceError, match="can be used"):
                DevicePool(Farm(tracker.address, "mixed"), wait_s=0.1, fingerprint="0" * 16)
    assert pool.fingerprint == this_machine().fingerprint
    assert len(told) == 3
    assert any("127.0.0.1:65535" in t and "with a GPU, that of this run is" in t for t in told)
    assert any("127.0.0.1:1 (zz)" in t and "must not be mixed" in t for t in told)
    assert any("it has tvm 0.1" in t for t in told)


def test_a_device_with_other_hardware_that_comes_later_is_not_used(
    tracker: servers.Running, work: Path
) -> None:
    told: list[str] = []
    with servers.devices(work, tracker, "later", 1):
        pool = DevicePool(Farm(tracker.address, "later"), wait_s=1.0, say=told.append)
        real, pool.machine = pool.machine, {**pool.machine, "fingerprint": "0" * 16}
        pool.fingerprint = "0" * 16
        with pytest.raises(DeviceError, match=r"with hardware 0+ could be had .* within 1 s"):
            pool.take()
        assert "times must not be mixed" in told[-1]
        pool.machine = real
        session = pool.take()
        assert session is not None
        session.close()
