"""Tuning on devices: trials, the whole model and records are those of the device's machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lepton_tvm.db import open_database
from lepton_tvm.errors import DeviceError, InputError, TargetError
from lepton_tvm.farm import Farm
from lepton_tvm.farm.device_artifacts import RemoteArtifacts
from lepton_tvm.farm.device_pool import farm_target
from lepton_tvm.measure import Rounds, this_machine
from lepton_tvm.model import Model
from lepton_tvm.targets import ISAS, best_isa, cpu_flags, parse_target
from lepton_tvm.tuning import tune
from lepton_tvm.tuning.tune_result import Status
from tests.support import servers


def test_a_model_is_tuned_on_a_device(
    tracker: servers.Running, other: servers.Running, model: Model, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'tune.db'}"
    before = other.said.count("session of")
    result = tune(model, trials=13, db=url, tracker=tracker.address, key="other")
    there = dataclasses.replace(this_machine(), cpu="Other CPU").fingerprint
    assert result.machine["fingerprint"] == there != this_machine().fingerprint
    assert result.new_trials == 13
    # a session is told when it has ended, a moment after its client has left
    servers.wait_until(
        lambda: other.said.count("session of") > before, lambda: "one more session's end"
    )
    with open_database(url) as database, database.reading() as reading:
        keys = reading.execute(sa.text("SELECT DISTINCT hardware FROM tuning_keys")).all()
        assert keys == [(there,)]
        assert {m.hardware for m in database.measurements()} <= {there}


@pytest.fixture
def pair(tracker: servers.Running, tmp_path: Path) -> Iterator[list[servers.Running]]:
    """Two devices by the key `pair`."""
    with servers.devices(tmp_path, tracker, "pair", 2, "--threads", "1") as made:
        yield made


def test_a_device_that_dies_leaves_the_rest_to_the_others(
    tracker: servers.Running, pair: list[servers.Running], model: Model, tmp_path: Path
) -> None:
    def kill(status: Status) -> None:
        if status.done > 6 and pair[0].process.poll() is None:
            pair[0].kill()

    url = f"sqlite:///{tmp_path / 'tune.db'}"
    farm: dict[str, Any] = {"tracker": tracker.address, "key": "pair"}
    result = tune(model, trials=40, db=url, on_status=kill, **farm)
    assert pair[0].process.poll() is not None
    assert (result.new_trials, result.failed) == (40, 0)


def test_a_device_that_cannot_take_the_model_leaves_it_to_another(
    tracker: servers.Running,
    pair: list[servers.Running],
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened, refused = RemoteArtifacts.open, 1

    def full(place: RemoteArtifacts, *args: Any) -> Any:
        nonlocal refused
        refused -= 1
        if refused >= 0:
            raise DeviceError("no space left")
        return opened(place, *args)

    monkeypatch.setattr(RemoteArtifacts, "open", full)
    # something must win, so that the model is run as a whole
    monkeypatch.setattr("lepton_tvm.tuning.winners._LOOKED_FASTER", 0.0)
    monkeypatch.setattr("lepton_tvm.tuning.winners._MOST", 1)
    for module in ("winners", "whole_model"):
        monkeypatch.setattr(f"lepton_tvm.tuning.{module}._ROUNDS", Rounds(9, 9, 0.1, 0.0))
    url = f"sqlite:///{tmp_path / 'tune.db'}"
    farm: dict[str, Any] = {"tracker": tracker.address, "key": "pair"}
    result = tune(model, trials=20, db=url, **farm)
    assert any("was not run on a device: no space left" in note for note in result.notes)
    assert result.new_trials == 20
    refused = 2
    with pytest.raises(DeviceError, match="no device could run the whole model"):
        tune(model, trials=24, db=url, **farm)
    with open_database(url) as database, database.reading() as reading:
        assert reading.execute(sa.text("SELECT count(*) FROM trials")).scalar() == 24


def test_a_device_that_is_lost_after_the_search_is_replaced(
    tracker: servers.Running,
    other: servers.Running,
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[int] = []

    def watch(status: Status) -> None:
        if status.phase == "comparing" and not killed:
            killed.append(other.session())
            other.kill_session()

    # any difference counts, so that there is a winner and the model is compared as a whole
    monkeypatch.setattr("lepton_tvm.tuning.winners._LOOKED_FASTER", 0.0)
    monkeypatch.setattr("lepton_tvm.tuning.winners._SURELY_FASTER", 0.0)
    url = f"sqlite:///{tmp_path / 'tune.db'}"
    result = tune(
        model, trials=18, db=url, tracker=tracker.address, key="other", on_status=watch
    )  # fmt: skip
    assert killed
    assert result.trials == 18
    (told,) = [note for note in result.notes if "was lost" in note]
    assert told.startswith("the whole model was not run on a device: ")


def test_the_target_is_the_devices_own(tracker: servers.Running, other: servers.Running) -> None:
    found = farm_target("native", Farm(tracker.address, "other"))
    assert str(found) == str(parse_target("native"))
    assert found.cores == this_machine().cores
    named = farm_target(str(parse_target("native")), Farm(tracker.address, "other"))
    assert (str(named), named.cores) == (str(found), found.cores)
    with pytest.raises(InputError, match="needs both --tracker"):
        Farm.of(tracker.address, None)


def test_a_target_that_devices_cannot_run_is_refused(
    tracker: servers.Running, other: servers.Running
) -> None:
    lacking = [isa for isa in ISAS.values() if not cpu_flags().issuperset(isa.flags)]
    if not lacking:
        pytest.skip(f"this CPU has all x86 instruction sets (best: {best_isa().name})")
    with pytest.raises(TargetError, match=r"the devices of key 'other' \(Other CPU\) lack "):
        farm_target(f"x86:{lacking[-1].name}", Farm(tracker.address, "other"))
