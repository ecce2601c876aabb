"""The whole search on a small model: what it stores, how it resumes, what ends it."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm.s_tir.meta_schedule.database import JSONDatabase

from lepton_tvm import runtime
from lepton_tvm.compiler import compile as compiler
from lepton_tvm.compiler.tuned import trial_key, tuned_by
from lepton_tvm.db import open_database
from lepton_tvm.db.views.why import explain
from lepton_tvm.errors import TrialError
from lepton_tvm.measure import this_machine
from lepton_tvm.model import Model
from lepton_tvm.targets import parse_target
from lepton_tvm.tuning import Status, TuneResult, tune, workshop
from lepton_tvm.tuning.metaschedule_json import RECORDS, WORKLOADS, export_metaschedule
from lepton_tvm.tuning.search import Search
from lepton_tvm.tuning.space import ZERO_TRIAL
from lepton_tvm.workers import BuildRequest, Built, ParallelBuilder
from tests.support.searches import hashes_of, run, stored

TRIALS = 40


@pytest.fixture(scope="module")
def tuned(model: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, TuneResult]:
    """A database with a finished search, and its result."""
    url = f"sqlite:///{tmp_path_factory.mktemp('tuned') / 'tune.db'}"
    seen: list[Status] = []
    result = run(url, model, TRIALS, on_status=seen.append)
    assert next(s.phase for s in seen) == "lowering"
    assert {"searching", "confirming", "compiling"} <= {s.phase for s in seen}
    searching = [s for s in seen if s.phase == "searching"]
    assert searching[-1].done == TRIALS
    assert [s.done for s in searching] == sorted(s.done for s in searching)
    return url, result


def test_it_makes_the_trials_that_were_asked_for(tuned: tuple[str, TuneResult]) -> None:
    url, result = tuned
    assert (result.trials, result.new_trials, result.stopped) == (TRIALS, TRIALS, "trials")
    with open_database(url) as database:
        trials = stored(database)
        assert len(trials) == len(set(trials)) == TRIALS
        zero = [key for key, candidate in trials if candidate == ZERO_TRIAL]
        assert len(set(zero)) == len(result.kernels) == len(zero)
        assert database.tuning.count()["claims"] == 0
        (job,) = database.jobs(kind="tune")
        assert (job.state, job.seeds) == ("done", {"search": 0})
        winners = database.tuning.winners(database.tuning.keys())
        assert len(winners) == len(result.kernels)
        for key, winner in winners.items():
            tried = {t.candidate: t.id for t in database.tuning.trials(key)}
            assert winner.trial_id == tried[winner.candidate]


def test_the_same_call_finds_all_done_and_more_trials_add_the_rest(
    tuned: tuple[str, TuneResult], model: Model
) -> None:
    url, first = tuned
    again = run(url, model, TRIALS)
    assert (again.trials, again.new_trials) == (TRIALS, 0)
    assert [k.decisions for k in again.kernels] == [k.decisions for k in first.kernels]
    more = run(url, model, TRIALS + 6)
    assert (more.trials, more.new_trials) == (TRIALS + 6, 6)


def test_the_artifact_computes_what_the_zero_trial_one_does(
    tuned: tuple[str, TuneResult], model: Model, tmp_path: Path
) -> None:
    url, _ = tuned
    zero = compiler.compile(model, db=url, output=tmp_path / "zero.so", tuned=False)
    made = compiler.compile(model, db=url, output=tmp_path / "tuned.so")
    x = np.random.default_rng(5).random((1, 1, 28, 28), dtype=np.float32)
    nets = [runtime.load(a.path) for a in (zero, made)]
    np.testing.assert_array_equal(nets[0](x), nets[1](x))
    assert not any(k["decisions"] for k in zero.manifest["kernels"])
    with open_database(url) as database:
        find = tuned_by(database, parse_target("native"))
        winners = [w for k in hashes_of(model) if (w := find(k))]
    assert sum(bool(k["decisions"]) for k in made.manifest["kernels"]) == len(winners)


def test_its_trials_can_be_read_by_tvms_own_database(
    tuned: tuple[str, TuneResult], tmp_path: Path
) -> None:
    url, result = tuned
    with open_database(url) as database:
        report = export_metaschedule(database, tmp_path)
        assert all("they have no trace" in text for text in report.skipped)
        (name,) = {m.name for m in database.models()}
        target, machine = parse_target("native"), this_machine().fingerprint
        told = explain(database, name, lambda h, kernel: trial_key(h, kernel, target, machine))
    read = JSONDatabase(str(tmp_path / WORKLOADS), str(tmp_path / RECORDS), allow_missing=False)
    assert len(read) == report.records > 0
    assert [e.used for e in told] == [True] * len(result.kernels)


def test_a_resumed_search_knows_all_that_templates_ask(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would try other lowerings only, and end when it has tried those."""
    run(url, model, 20)
    seen: list[int] = []
    propose = Search.propose

    def look(search: Search, count: int) -> Any:
        asked = [bool(s.space.asked) for s in search.states.values()]
        seen.append(sum(asked) if all(asked) else -1)
        return propose(search, count)

    monkeypatch.setattr(Search, "propose", look)
    assert run(url, model, 24).new_trials == 4
    assert seen
    assert min(seen) > 5


class FullDisk(ParallelBuilder):
    """Builds zero-trial kernels only: then its disk is full."""

    def build(self, requests: Sequence[BuildRequest]) -> Iterator[Built]:
        yield from super().build([r for r in requests if not r.decisions])
        for request in (r for r in requests if r.decisions):
            yield Built(request.id, "failed", None, "the disk is full", 0.0, reason="disk-full")


@pytest.mark.usefixtures("flattered")
def test_trials_that_this_machine_is_to_blame_for_are_not_stored(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop, "open_builder", lambda *_, **__: FullDisk())
    with pytest.raises(TrialError, match="the trials cannot go on: the disk is full"):
        run(url, model, 60)
    with open_database(url) as database:
        assert {candidate for _, candidate in stored(database)} <= {ZERO_TRIAL}


def test_a_disk_without_room_for_arguments_is_told(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TrialError, match="No space left on device; free some space or set TMPDIR"):
        run(url, model, 20)


def test_the_search_ends_when_it_is_told_to_and_the_best_so_far_is_judged(
    url: str, model: Model
) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 20

    result = run(url, model, 1000, should_stop=stop)
    assert result.stopped == "interrupted"
    assert 10 < result.new_trials <= 20
    assert result.artifact.exists()
    with open_database(url) as database:
        assert database.tuning.count()["claims"] == 0
        assert len(stored(database)) == result.new_trials


def test_a_budget_ends_the_search(url: str, model: Model) -> None:
    result = tune(model, budget="1s", db=url)
    assert result.stopped == "budget"
    assert 0 < result.trials < 40
