"""Who wins a search, and what is taken back though it looked faster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from lepton_tvm.compiler import compile as compiler
from lepton_tvm.db import open_database
from lepton_tvm.measure import Estimate
from lepton_tvm.measure.loaded_artifacts import LocalArtifacts
from lepton_tvm.model import Model
from lepton_tvm.tuning import TuneResult, winners, workshop
from lepton_tvm.tuning.model_tuning import ModelTuning
from lepton_tvm.tuning.whole_model import SideBySide
from lepton_tvm.tuning.winners import promising
from lepton_tvm.workers import LocalRunner, RunRequest, RunResult
from tests.support.searches import Liar, run


def test_a_candidate_with_other_numbers_never_wins(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop, "open_runner", lambda *_, **__: Liar())
    result = run(url, model, 30)
    assert result.failed == 30 - len(result.kernels)
    assert not any(k.decisions for k in result.kernels)
    assert any("nothing was changed" in note for note in result.notes)


class Broken(LocalRunner):
    """Runs nothing of the first kernel that it sees."""

    first = ""

    def run(self, requests: Sequence[RunRequest]) -> Iterator[RunResult]:
        for result in super().run(requests):
            task = result.id.partition(":")[0]
            self.first = self.first or task
            yield RunResult(result.id, "crashed") if task == self.first else result


def test_a_kernel_whose_zero_trial_fails_is_named(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop, "open_runner", lambda *_, **__: Broken())
    result = run(url, model, 20)
    (note,) = (n for n in result.notes if n.startswith("not tuned, since their zero-trial"))
    (broken,) = (k for k in result.kernels if k.zero_us is None)
    assert note.endswith(f": {broken.name}")
    assert (broken.trials, broken.failed) == (1, 1)


@pytest.fixture
def flattered_in_model(flattered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the model, too, all candidates look ten times faster: they win."""
    time_kernels = LocalArtifacts.time_kernels

    def flatter(place: LocalArtifacts, artifacts: Sequence[str], *rest: Any) -> Any:
        base = time_kernels(place, artifacts, *rest)[artifacts[0]]
        fast = [[s / 10 for s in row] for row in base]
        return dict.fromkeys(artifacts, fast) | {artifacts[0]: base}

    monkeypatch.setattr(LocalArtifacts, "time_kernels", flatter)


def taken_back(result: TuneResult, url: str, model: Model, why: str) -> None:
    """The result says why, and neither it nor what `compile` makes has any decision."""
    assert any(why in note for note in result.notes)
    assert not any(k.decisions for k in result.kernels)
    made = compiler.compile(model, db=url)
    assert not any(k["decisions"] for k in made.manifest["kernels"])


@pytest.mark.usefixtures("flattered_in_model")
def test_kernels_that_make_the_whole_model_slower_are_taken_back(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels whose times were flattered win; the whole model tells that they are slow."""
    told = iter([(Estimate(1.0, 1.0, 1.0), Estimate(1.1, 1.1, 1.1), Estimate(0.9, 0.88, 0.92))])
    monkeypatch.setattr(SideBySide, "time", lambda *_, **__: next(told))
    taken_back(run(url, model, 30), url, model, "slower (0.900x)")


@pytest.mark.usefixtures("flattered_in_model")
def test_kernels_that_change_the_model_s_outputs_are_taken_back(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last net, should a candidate compute right by itself and wrong in the model."""
    infer, seen = LocalArtifacts.infer, []

    def other(place: LocalArtifacts, sha256: str, inputs: Any) -> Any:
        seen.append(sha256)
        found = infer(place, sha256, inputs)
        return {name: value + (len(seen) > 1) for name, value in found.items()}

    monkeypatch.setattr(LocalArtifacts, "infer", other)
    result = run(url, model, 30)
    assert len(set(seen)) == 2
    taken_back(result, url, model, "changed what the whole model computes (output")


@pytest.mark.usefixtures("flattered")
def test_kernels_that_are_fast_only_by_themselves_win_nothing(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner says ten times faster; inside the model they take as long as before."""
    asked: list[int] = []

    def same(place: LocalArtifacts, artifacts: Sequence[str], *rest: Any) -> Any:
        asked.append(len(artifacts))
        (rows,) = measured(place, artifacts[:1], *rest).values()
        return dict.fromkeys(artifacts, rows)

    measured = LocalArtifacts.time_kernels
    monkeypatch.setattr(LocalArtifacts, "time_kernels", same)
    result = run(url, model, 30)
    assert asked
    assert asked[0] > 1
    assert not any(k.decisions for k in result.kernels)
    assert any("nothing was changed" in note for note in result.notes)


def test_trials_of_a_run_that_was_killed_before_its_verdict_are_judged_by_the_next(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(url, model, 20)
    judged: list[int] = []

    def killed(*_: Any) -> Any:
        judged.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(winners, "in_model", killed)
        patch.setattr(winners, "promising", lambda tuning: {k: [] for k in tuning.keys})
        run(url, model, 20)
        assert not judged  # nothing is new: the verdict stands
        with pytest.raises(KeyboardInterrupt):
            run(url, model, 26)
    assert judged
    looked: list[int] = []

    def look(tuning: ModelTuning) -> Any:
        looked.append(1)
        return promising(tuning)

    monkeypatch.setattr(winners, "promising", look)
    again = run(url, model, 26)
    assert (again.new_trials, looked) == (0, [1])
    assert run(url, model, 26).new_trials == 0
    assert looked == [1]


def test_fewer_trials_than_kernels_give_verdicts_on_those_that_were_tried(
    url: str, model: Model
) -> None:
    result = run(url, model, 3)
    kernels = len(result.kernels)
    assert (
        f"{kernels - 3} kernels have no trials yet: run the same command again to go on"
        in result.notes
    )
    assert "3 trials (3 new, 0 failed; all trials are done)" in str(result)
    with open_database(url) as database:
        assert database.tuning.count()["trials"] == 3
        keys = database.tuning.keys()
        assert len(database.tuning.winners(keys)) == 3
