"""Kernels timed on the devices of a tracker: all answered, whatever a device or a kernel does."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lepton_tvm.errors import DeviceError
from lepton_tvm.farm import Farm, artifacts_of, open_runner
from lepton_tvm.farm.remote_runner import FileHashes, RpcRunner
from lepton_tvm.farm.request_lanes import Queue
from lepton_tvm.farm.tracker_client import Tracker
from lepton_tvm.measure import Rounds, this_machine
from lepton_tvm.measure.loaded_artifacts import LocalArtifacts
from lepton_tvm.measure.timing_inputs import random_inputs
from lepton_tvm.model import TensorInfo
from lepton_tvm.workers import RunResult
from tests.support import device_kernels as kernels
from tests.support import servers
from tests.support import toy_artifact as toy


def test_every_state_is_told_and_the_device_goes_on(
    tracker: servers.Running, libraries: dict[str, str], work: Path
) -> None:
    with servers.devices(work, tracker, "states", 1) as (device,):
        runner = RpcRunner(Farm(tracker.address, "states"), timeout_s=2, wait_s=20)
        assert runner.hardware == this_machine().fingerprint
        kinds = ["crash", "hang", "wrong", "double"]
        double = libraries["double"]
        requests = [kernels.request(work, k, libraries[k], double) for k in kinds]
        requests.append(kernels.request(work, "missing", str(work / "no such file.so")))
        requests.append(kernels.request(work, "alone", double))
        found = {r.id: r for r in runner.run(requests)}
        runner.close()
        assert "crashed with signal" not in device.said
    states = {name: r.state for name, r in found.items()}
    assert states == {
        "crash": "crashed",
        "hang": "timeout",
        "wrong": "wrong",
        "double": "ok",
        "missing": "failed",
        "alone": "ok",
    }
    assert "[17]" in (found["wrong"].error or "")
    assert "no such file" in (found["missing"].error or "")
    double_result = found["double"]
    assert len(double_result.samples_s) == len(double_result.reference_s) >= 3
    assert min(double_result.samples_s) > 0
    assert not found["alone"].reference_s


def test_32_requests_are_answered_though_one_of_two_devices_is_killed(
    tracker: servers.Running, libraries: dict[str, str], work: Path
) -> None:
    told: list[str] = []
    with servers.devices(work, tracker, "pair", 2) as pair:
        runner = RpcRunner(Farm(tracker.address, "pair"), timeout_s=20, wait_s=20, say=told.append)
        double = libraries["double"]
        requests = [kernels.request(work, f"{i}", double, double) for i in range(32)]
        results: list[RunResult] = []
        used: set[int] = set()
        for result in runner.run(requests):
            results.append(result)
            if len(results) == 8:
                used = {i for i, d in enumerate(pair) if d.has_session()}
                pair[0].kill()
        assert used == {0, 1}
        assert sorted(int(r.id) for r in results) == list(range(32))
        assert {r.state for r in results} == {"ok"}
        assert any(f"device {pair[0].address} was lost" in text for text in told)
        # the same devices, asked once more
        again = list(runner.run(requests[:3]))
        assert [r.state for r in again] == ["ok"] * 3
        runner.close()


def test_whole_artifacts_run_where_kernels_do(
    tracker: servers.Running, libraries: dict[str, str], work: Path
) -> None:
    sha256 = toy.write(work / "toy.so", toy.dense())
    quick = Rounds(least=3, most=3, budget_s=0.01, warmup_s=0)
    with servers.devices(work, tracker, "whole", 1) as (device,):
        runner = open_runner(Farm(tracker.address, "whole"), wait_s=20)
        (result,) = runner.run([kernels.request(work, "k", libraries["double"])])
        assert result.state == "ok"
        for _ in range(2):
            place = next(artifacts_of(runner))
            manifest = place.open({sha256: work / "toy.so"}, 1)[sha256]
            inputs = random_inputs([TensorInfo.from_json(t) for t in manifest["inputs"]], 0)
            found = place.infer(sha256, inputs)["y"]
            np.testing.assert_allclose(found, np.maximum(inputs["x"] @ toy.WEIGHT, 0), rtol=1e-5)
            assert len(place.time([sha256], inputs, quick)[sha256]) == 3
            rows = place.time_kernels([sha256], inputs, quick)[sha256]
            here = LocalArtifacts()
            here.open({sha256: work / "toy.so"}, 1)
            assert np.shape(rows) == np.shape(here.time_kernels([sha256], inputs, quick)[sha256])
            device.kill_session()
        runner.close()


def test_two_runs_share_the_only_device(
    tracker: servers.Running, libraries: dict[str, str], work: Path
) -> None:
    told: list[str] = []
    asked = [kernels.request(work, "k", libraries["double"])]
    with servers.devices(work, tracker, "shared", 1):
        first, second = (
            RpcRunner(Farm(tracker.address, "shared"), wait_s=2, busy_s=60, say=told.append)
            for _ in range(2)
        )
        assert [r.state for r in first.run(asked)] == ["ok"]
        found: list[RunResult] = []
        other = threading.Thread(target=lambda: found.extend(second.run(asked)))
        other.start()
        with Tracker(servers.where(tracker)) as looking:
            servers.wait_until(lambda: looking.waiting("shared") > 0, lambda: "a request")
            servers.wait_until(lambda: bool(told), lambda: "longer than wait_s")
        assert not found  # the first one still holds it
        assert [r.state for r in first.run(asked)] == ["ok"]
        other.join(30)
        assert [r.state for r in found] == ["ok"]
        second.close()
        assert [r.state for r in first.run(asked)] == ["ok"]
        first.close()
    assert told == ["all devices of key 'shared' were busy: one was waited for"]


def test_what_a_device_refuses_is_not_the_candidate_s_fault(
    tracker: servers.Running, libraries: dict[str, str], work: Path
) -> None:
    """A trial would be stored as failed for good."""
    with servers.devices(work, tracker, "refusing", 1):
        runner = RpcRunner(Farm(tracker.address, "refusing"), timeout_s=20, wait_s=30)
        asked = kernels.request(work, "k", libraries["double"])
        (result,) = runner.run([dataclasses.replace(asked, threads=99)])
        runner.close()
    assert (result.state, result.reason) == ("failed", "device")
    assert "99 threads were asked for, this device gives" in (result.error or "")


def test_a_session_lost_in_the_middle_is_tried_once_more_on_the_same_device(
    tracker: servers.Running, libraries: dict[str, str], work: Path
) -> None:
    with servers.devices(work, tracker, "single", 1) as (device,):
        runner = RpcRunner(Farm(tracker.address, "single"), timeout_s=20, wait_s=30)
        double = libraries["double"]
        found = []
        for result in runner.run([kernels.request(work, f"{i}", double) for i in range(6)]):
            found.append(result)
            if len(found) == 2:
                device.kill_session()
        runner.close()
    assert [r.state for r in found] == ["ok"] * 6


def test_when_no_device_is_left_the_error_says_so_and_results_stand(
    tracker: servers.Running, libraries: dict[str, str], work: Path
) -> None:
    with servers.devices(work, tracker, "gone", 1) as (device,):
        runner = RpcRunner(Farm(tracker.address, "gone"), timeout_s=20, wait_s=1.5)
        double = libraries["double"]
        found: list[RunResult] = []

        def note_and_kill() -> None:
            for result in runner.run([kernels.request(work, f"{i}", double) for i in range(6)]):
                found.append(result)
                device.kill()

        with pytest.raises(DeviceError, match=r"of 6 kernels were timed, then: no device of key"):
            note_and_kill()
        assert found
        assert {r.state for r in found} == {"ok"}
        runner.close()


def test_a_device_that_is_not_there_is_waited_for_and_then_told(tracker: servers.Running) -> None:
    start = time.monotonic()
    with pytest.raises(DeviceError, match=r"knows no device of key 'none'; start a device: lepton"):
        RpcRunner(Farm(tracker.address, "none"), wait_s=0.5)
    assert time.monotonic() - start >= 0.5
    with pytest.raises(DeviceError, match="cannot be reached"):
        RpcRunner(Farm("127.0.0.1:1", "none"))


def test_leaving_early_gives_nothing_more_to_do(
    tracker: servers.Running, libraries: dict[str, str], work: Path
) -> None:
    with servers.devices(work, tracker, "early", 1):
        runner = RpcRunner(Farm(tracker.address, "early"), wait_s=20)
        double = libraries["double"]
        requests = [kernels.request(work, f"{i}", double) for i in range(50)]
        for _ in runner.run(requests):
            break
        assert [r.id for r in runner.run(requests[-1:])] == ["49"]
        runner.close()


def test_a_kernel_under_which_every_device_is_lost_is_given_up(work: Path) -> None:
    request = kernels.request(work, "a", "none.so")
    queue = Queue([request], attempts=2)
    queue.enter(1)
    for _ in range(2):
        assert queue.take() == request
        queue.again(request, "it burnt")
    assert queue.take() is None
    assert queue.over()
    (result,) = queue.results()
    assert result.state == "crashed"
    assert "lost 2 times under this kernel, last: it burnt" in (result.error or "")


def test_a_thread_waits_for_requests_that_may_come_back(work: Path) -> None:
    request = kernels.request(work, "a", "none.so")
    queue = Queue([request], attempts=2)
    queue.enter(2)
    assert queue.take() == request
    taken: list[object] = []
    other = threading.Thread(target=lambda: taken.append(queue.take()))
    other.start()
    queue.again(request, "lost")
    other.join(10)
    assert taken == [request]


def test_a_file_that_is_written_anew_has_another_hash(tmp_path: Path) -> None:
    hashes, path = FileHashes(), tmp_path / "f"
    seen = set()
    for text in ("one", "two", "six"):
        path.write_text(text)
        seen.add(hashes.of(str(path)))
    assert len(seen) == 3
