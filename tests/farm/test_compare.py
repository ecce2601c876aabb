"""Comparing on a device: the same numbers as here, stored with the device's machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lepton_tvm.compare import compare
from lepton_tvm.db import Database, open_database
from lepton_tvm.errors import ArtifactError, DeviceError, InputError, TargetError
from lepton_tvm.farm import Farm
from lepton_tvm.farm.device_artifacts import remote_artifacts
from lepton_tvm.measure import Machine, Rounds, this_machine
from lepton_tvm.targets.driver import Device, Devices
from tests.support import servers
from tests.support import toy_artifact as toy
from tests.support.command_line import Lepton

QUICK = Rounds(least=3, most=3, budget_s=0.01, warmup_s=0)
X = np.random.default_rng(2).standard_normal((8, 8)).astype("float32")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with open_database(str(tmp_path / "lepton.db")) as database:
        toy.write(tmp_path / "a.so", toy.dense(), precision="float32", variant="float32")
        toy.write(tmp_path / "b.so", toy.dense(1.1), precision="int8", variant="int8")
        for name in ("a.so", "b.so"):
            database.add_artifact(tmp_path / name)
        yield database


def test_a_device_compares_and_its_machine_is_stored(
    db: Database, tracker: servers.Running, other: servers.Running
) -> None:
    here = compare("toy", db=db, data={"x": X}, rounds=QUICK)
    there = compare("toy", db=db, data={"x": X}, rounds=QUICK, tracker=tracker.address, key="other")
    assert there.machine.cpu == "Other CPU"
    assert there.machine.fingerprint != here.machine.fingerprint == this_machine().fingerprint
    stored = db.measurements(run_id=there.run_id)
    assert {m.hardware for m in stored} == {there.machine.fingerprint}
    assert {m.machine["cpu"] for m in stored} == {"Other CPU"}
    assert {len(m.samples_s) for m in stored} == {3}
    (mine,), (its,) = here.variants, there.variants
    assert mine.quality is not None
    assert its.quality == mine.quality
    assert "Other CPU" in str(there)


def test_an_artifact_for_another_cpu_is_not_brought(
    db: Database, tmp_path: Path, tracker: servers.Running, other: servers.Running
) -> None:
    toy.write(tmp_path / "c.so", toy.dense(2), variant="new", cpu_features=["no_such_feature"])
    db.add_artifact(tmp_path / "c.so")
    found = compare("toy", db=db, rounds=QUICK, tracker=tracker.address, key="other")
    assert [v.name for v in found.variants] == ["int8"]
    assert any("no_such_feature" in note for note in found.report)


def test_a_damaged_artifact_is_refused_before_it_is_sent(
    db: Database, tracker: servers.Running, other: servers.Running
) -> None:
    path = db.artifact_path(db.artifacts()[0])
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError):
        compare("toy", db=db, rounds=QUICK, tracker=tracker.address, key="other")


def test_more_threads_than_the_device_gives_are_refused(
    db: Database, tracker: servers.Running, other: servers.Running
) -> None:
    with pytest.raises(InputError, match="2 threads were asked for"):
        compare("toy", db=db, threads=2, tracker=tracker.address, key="other")


def test_a_tracker_without_a_key_is_refused(db: Database, tracker: servers.Running) -> None:
    with pytest.raises(InputError, match="needs both --tracker HOST:PORT and --key KEY"):
        compare("toy", db=db, tracker=tracker.address)
    with pytest.raises(InputError, match="is not HOST:PORT"):
        compare("toy", db=db, tracker="nowhere", key="other")
    with pytest.raises(DeviceError, match="cannot be reached"):
        compare("toy", db=db, tracker="127.0.0.1:1", key="other")


def test_the_device_checks_artifacts_itself(
    tmp_path: Path, tracker: servers.Running, other: servers.Running
) -> None:
    sha256 = toy.write(tmp_path / "d.so", toy.dense(), cpu_features=["no_such_feature"])
    with remote_artifacts(Farm(tracker.address, "other")) as remote:
        with pytest.raises(TargetError, match="no_such_feature"):
            remote.open({sha256: tmp_path / "d.so"}, 1)
        (tmp_path / "e.so").write_bytes(b"not what its name says")
        with pytest.raises(InputError, match="arrived damaged"):
            remote.open({"0" * 64: tmp_path / "e.so"}, 1)


def test_commands_for_the_farm(
    lepton: Lepton, db: Database, tracker: servers.Running, other: servers.Running
) -> None:
    listed = lepton("device", "list", "--tracker", tracker.address, "--json")
    assert listed.code == 0
    devices = {d["key"]: d for d in json.loads(listed.out)["devices"]}
    assert devices["other"]["machine"]["cpu"] == "Other CPU"
    assert (devices["other"]["port"], devices["other"]["state"]) == (other.port, "free")
    told = lepton("device", "list", "--tracker", tracker.address)
    assert "Other CPU" in told.out
    args = ["--db", db.url, "--tracker", tracker.address, "--key", "other", "--json"]
    compared = lepton("compare", *args)
    assert compared.code == 0, compared.err
    assert json.loads(compared.out)["machine"]["cpu"] == "Other CPU"
    for wrong, code in (("127.0.0.1:1", 1), ("127.0.0.1", 2)):
        assert lepton("device", "list", "--tracker", wrong).code == code


def test_a_machine_survives_json() -> None:
    assert Machine.from_json(this_machine().to_json()) == this_machine()


def test_an_artifact_for_gpus_is_checked_against_the_devices_own(
    tracker: servers.Running, other: servers.Running
) -> None:
    with remote_artifacts(Farm(tracker.address, "other")) as remote:
        wanted = {"capability": 80, "archs": ["sm_80"]}
        manifest = {"arch": this_machine().arch, "cpu_features": [], "gpu": wanted}
        remote.gpus = Devices((), "the device has no NVIDIA GPU")
        with pytest.raises(TargetError, match="the device has no NVIDIA GPU"):
            remote.check(manifest, "a")
        remote.gpus = Devices((Device("one", 90, 13000),))
        remote.check(manifest, "a")
