"""Building on a Dask cluster of several processes, one of which does not live long."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lepton_tvm.errors import InputError, TrialError
from lepton_tvm.farm import Farm, dask_worker, open_builder, open_runner
from lepton_tvm.farm.dask_builder import DaskBuilder
from lepton_tvm.farm.dask_worker import difference, versions
from lepton_tvm.workers import Built, LocalRunner, ParallelBuilder
from tests.support.worker_kernels import line, request

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="Dask (distributed) is not installed"
)


def local_cluster(workers: int) -> Any:
    """So many worker processes; all of it listens on the loopback interface only."""
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        silence_logs=50,
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with local_cluster(3) as made:
        yield made


@pytest.fixture(scope="module")
def dask(cluster: Any) -> Iterator[DaskBuilder]:
    with DaskBuilder(cluster.scheduler_address, wait_s=30) as builder:
        yield builder


def test_16_kernels_are_built_though_a_worker_is_killed(dask: DaskBuilder) -> None:
    assert dask.workers == 3
    requests = [request(f"k{i}", line((4, i + 1), "float32")) for i in range(16)]
    pids = dict(dask._client.run(os.getpid))
    answers = []
    for answer in dask.build(requests):
        answers.append(answer)
        if len(answers) == 3:
            os.kill(next(iter(pids.values())), signal.SIGKILL)
    assert sorted(a.id for a in answers) == sorted(r.id for r in requests)
    assert {a.state for a in answers} == {"ok"}, [a.error for a in answers]
    paths = [Path(a.path or "") for a in answers]
    assert len(set(paths)) == 16
    assert all(p.parent == dask.folder and p.read_bytes()[:4] == b"\x7fELF" for p in paths)


def test_what_cannot_be_built_fails_alone_and_says_why(dask: DaskBuilder) -> None:
    good = request("good", line((5,), "int32"))
    broken = dataclasses.replace(good, id="broken", module="{}")
    found = {a.id: a for a in dask.build([broken, good])}
    assert found["good"].state == "ok"
    assert found["broken"].state == "failed"
    assert found["broken"].error


def test_the_answer_is_that_of_a_local_builder(dask: DaskBuilder, builder: ParallelBuilder) -> None:
    wanted = request("same", line((3, 3), "float32"))
    (here,), (there,) = builder.build([wanted]), dask.build([wanted])

    def plain(answer: Built) -> Built:
        return dataclasses.replace(answer, path=None, seconds=0.0)

    assert plain(there) == plain(here)


def test_leaving_early_leaves_the_cluster_free(dask: DaskBuilder) -> None:
    for _ in dask.build([request(f"e{i}", line((6, i + 1), "float32")) for i in range(12)]):
        break
    (answer,) = dask.build([request("after", line((2, 2), "float32"))])
    assert answer.state == "ok"


def test_a_connected_client_is_used_and_left_open(cluster: Any) -> None:
    with cluster.get_client() as client:
        with DaskBuilder(client) as builder:
            folder = builder.folder
            (answer,) = builder.build([request("c", line((2, 2), "int8"))])
            assert answer.state == "ok"
        assert client.status == "running"
        assert not folder.exists()


def test_workers_of_other_versions_are_refused(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {**versions(), "apache-tvm": "9.9"}
    monkeypatch.setattr(dask_worker, "versions", lambda: here)
    with cluster.get_client() as client:
        monkeypatch.setattr(client, "run", lambda _f: {"tcp://w": {**here, "apache-tvm": "0.1"}})
        with pytest.raises(TrialError, match=r"worker tcp://w has apache-tvm 0.1, .* has 9.9"):
            DaskBuilder(client)


def test_a_worker_that_came_later_with_other_versions_builds_nothing() -> None:
    wanted = request("k", line((2,), "int8"))
    fields = dataclasses.asdict(wanted)
    answer, code = dask_worker.build(fields, 30.0, {**versions(), "lepton_tvm": "9"})
    assert (answer["state"], code) == ("failed", b"")
    assert "has lepton_tvm 0" in answer["error"]
    assert difference(versions(), versions()) is None


def test_a_cluster_that_has_gone_is_told() -> None:
    made = local_cluster(0)
    address = made.scheduler_address
    with pytest.raises(TrialError, match=r"has no worker after 0 s; start one: dask worker tcp"):
        DaskBuilder(address, wait_s=0.5)
    made.close()
    with pytest.raises(TrialError, match="cannot be reached"):
        DaskBuilder(address, wait_s=0.5)


def test_builders_and_runners_are_opened_by_their_addresses(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = open_builder(None, 1)
    assert isinstance(here, ParallelBuilder)
    here.close()
    there = open_builder(cluster.scheduler_address)
    assert isinstance(there, DaskBuilder)
    there.close()
    local = open_runner()
    assert isinstance(local, LocalRunner)
    local.close()
    with pytest.raises(InputError, match="leave workers= out"):
        open_builder("tcp://127.0.0.1:1", 3)
    with pytest.raises(InputError, match="not the address of a Dask scheduler"):
        open_builder("nowhere")
    with pytest.raises(InputError, match="needs both --tracker HOST:PORT and --key KEY"):
        Farm.of("127.0.0.1:9190", None)
    with pytest.raises(InputError, match="is not HOST:PORT"):
        Farm("nowhere", "k")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'lepton-tvm\[distributed\]'"):
        open_builder("tcp://127.0.0.1:1")
