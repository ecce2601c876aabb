"""The whole search on a small model: what it stores, how it resumes, what it may never do."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lepton_tvm import compiler, runtime
from lepton_tvm.db import Database, open_database
from lepton_tvm.errors import InputError, TargetError, TrialError
from lepton_tvm.frontend import load_model
from lepton_tvm.measure import this_machine
from lepton_tvm.measure.artifacts import LocalArtifacts
from lepton_tvm.model import Model
from lepton_tvm.targets import parse_target
from lepton_tvm.trials import (
    BuildRequest,
    Built,
    LocalRunner,
    ParallelBuilder,
    RunRequest,
    RunResult,
)
from lepton_tvm.tuning import Status, TuneResult, outcome, parse_budget, session, tune
from lepton_tvm.tuning.confirm import finalists
from lepton_tvm.tuning.keys import schedule_version, trial_key, tuned_by
from lepton_tvm.tuning.search import Search
from lepton_tvm.tuning.space import ZERO_TRIAL
from lepton_tvm.tuning.trial_loop import TrialLoop

TRIALS = 40


def run(url: str, model: Model, trials: int, **options: Any) -> TuneResult:
    return tune(model, trials=trials, db=url, **options)


def stored(database: Database) -> list[tuple[str, str]]:
    """Key and candidate of every trial."""
    import sqlalchemy as sa

    with database.reading() as reading:
        rows = reading.execute(sa.text("SELECT key_id, candidate FROM trials"))
        return [(str(k), str(c)) for k, c in rows]


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
        winners = [w for k in _hashes(model) if (w := find(k))]
    assert sum(bool(k["decisions"]) for k in made.manifest["kernels"]) == len(winners)


def test_a_record_is_used_for_exactly_its_own_key(url: str, model: Model) -> None:
    """Each part of the key alone keeps a winner from being used."""
    target, machine = parse_target("native"), this_machine().fingerprint
    own = trial_key(_hashes(model)[1], target, machine)
    winner = {"unroll_depth": 2}
    with open_database(url) as database:
        others = {
            "workload_hash": "0" * 16,
            "target": own.target.replace(f"{target}", "x86:sse"),
            "hardware": "f" * 16,
            "tvm_version": "0.26.0",
            "schedule_version": "0" * 12,
        }
        for part, value in others.items():
            assert getattr(own, part) != value
            _store(database, dataclasses.replace(own, **{part: value}), winner)
        find = tuned_by(database, target)
        assert [find(k) for k in _hashes(model)] == [None] * len(_hashes(model))
        made = compiler.compile(model, db=database)
        assert not any(k["decisions"] for k in made.manifest["kernels"])
        assert tuned_by(database, target, threads=2)(own.workload_hash) is None
        _store(database, own, winner)
        assert find(own.workload_hash) == winner
        changed = compiler.compile(model, db=database)
        used = [k["decisions"] for k in changed.manifest["kernels"] if k["decisions"]]
        assert used == [winner]
        assert tuned_by(database, target, threads=2)(own.workload_hash) is None
        assert tuned_by(database, target, hardware="e" * 16)(own.workload_hash) is None


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


class Liar(LocalRunner):
    """Says that all candidates are ten times faster, and that their numbers are wrong."""

    state = "wrong"

    def run(self, requests: Sequence[RunRequest]) -> Iterator[RunResult]:
        for result in super().run(requests):
            zero = result.id.endswith(f":{ZERO_TRIAL}")
            fast = tuple(s / 10 for s in result.samples_s)
            yield (
                result
                if zero
                else dataclasses.replace(
                    result, state=self.state, samples_s=fast, error="outputs differ by 3"
                )
            )


class Flatterer(Liar):
    """Says that all candidates are ten times faster, and right."""

    state = "ok"


def flattered(time_kernels: Callable[..., Any]) -> Callable[..., Any]:
    """Says that inside the model too all candidates are ten times faster."""

    def tell(place: LocalArtifacts, artifacts: Sequence[str], *rest: Any) -> Any:
        found = time_kernels(place, artifacts, *rest)
        base = found[artifacts[0]]
        return {a: [[s / 10 for s in row] for row in base] for a in artifacts} | {
            artifacts[0]: base
        }

    return tell


class FullDisk(ParallelBuilder):
    """Builds zero-trial kernels only: then its disk is full."""

    def build(self, requests: Sequence[BuildRequest]) -> Iterator[Built]:
        yield from super().build([r for r in requests if not r.decisions])
        for request in (r for r in requests if r.decisions):
            yield Built(request.id, "failed", None, "the disk is full", 0.0, reason="disk-full")


def test_trials_that_this_machine_is_to_blame_for_are_not_stored(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "open_builder", lambda *_, **__: FullDisk())
    monkeypatch.setattr(session, "open_runner", lambda *_, **__: Flatterer())
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


def test_a_candidate_with_other_numbers_never_wins(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "open_runner", lambda *_, **__: Liar())
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
    monkeypatch.setattr(session, "open_runner", lambda *_, **__: Broken())
    result = run(url, model, 20)
    (note,) = (n for n in result.notes if n.startswith("not tuned, since their zero-trial"))
    (broken,) = (k for k in result.kernels if k.zero_us is None)
    assert note.endswith(f": {broken.name}")
    assert (broken.trials, broken.failed) == (1, 1)


def test_kernels_that_make_the_whole_model_slower_are_taken_back(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels whose times were flattered win; the whole model tells that they are slow."""
    monkeypatch.setattr(session, "open_runner", lambda *_, **__: Flatterer())
    monkeypatch.setattr(LocalArtifacts, "time_kernels", flattered(LocalArtifacts.time_kernels))
    times = iter([0.9])

    def slower(*args: Any, **options: Any) -> Any:
        from lepton_tvm.measure import Estimate

        ratio = next(times)
        return Estimate(1.0, 1.0, 1.0), Estimate(1.1, 1.1, 1.1), Estimate(ratio, 0.88, 0.92)

    monkeypatch.setattr(outcome, "time_in_turns", slower)
    result = run(url, model, 30)
    assert any("slower (0.900x)" in note for note in result.notes)
    assert not any(k.decisions for k in result.kernels)
    made = compiler.compile(model, db=url)
    assert not any(k["decisions"] for k in made.manifest["kernels"])


def test_kernels_that_change_the_model_s_outputs_are_taken_back(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last net, should a candidate compute right by itself and wrong in the model."""
    monkeypatch.setattr(session, "open_runner", lambda *_, **__: Flatterer())
    monkeypatch.setattr(LocalArtifacts, "time_kernels", flattered(LocalArtifacts.time_kernels))
    infer, seen = LocalArtifacts.infer, []

    def other(place: LocalArtifacts, sha256: str, inputs: Any) -> Any:
        seen.append(sha256)
        found = infer(place, sha256, inputs)
        return {name: value + (len(seen) > 1) for name, value in found.items()}

    monkeypatch.setattr(LocalArtifacts, "infer", other)
    result = run(url, model, 30)
    assert len(set(seen)) == 2
    assert any("changed what the whole model computes (output" in note for note in result.notes)
    assert not any(k.decisions for k in result.kernels)
    made = compiler.compile(model, db=url)
    assert not any(k["decisions"] for k in made.manifest["kernels"])


def test_trials_of_a_run_that_was_killed_before_its_verdict_are_judged_by_the_next(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(url, model, 20)
    judged: list[int] = []

    def killed(*_: Any) -> Any:
        judged.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(outcome, "in_model", killed)
        patch.setattr(outcome, "finalists", lambda loop: {k: [] for k in loop.keys})
        run(url, model, 20)
        assert not judged  # nothing is new: the verdict stands
        with pytest.raises(KeyboardInterrupt):
            run(url, model, 26)
    assert judged
    looked: list[int] = []

    def look(loop: TrialLoop) -> Any:
        looked.append(1)
        return finalists(loop)

    monkeypatch.setattr(outcome, "finalists", look)
    again = run(url, model, 26)
    assert (again.new_trials, looked) == (0, [1])
    assert run(url, model, 26).new_trials == 0
    assert looked == [1]


def test_kernels_that_are_fast_only_by_themselves_win_nothing(
    url: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner says ten times faster; inside the model they take as long as before."""
    monkeypatch.setattr(session, "open_runner", lambda *_, **__: Flatterer())
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


def test_neighbours_seed_the_search_and_win_nothing(url: str, model: Model) -> None:
    run(url, model, 30)
    with open_database(url) as database:
        target = parse_target("native")
        machine = this_machine().fingerprint
        keys = [trial_key(h, target, machine) for h in _hashes(model)]
        trials = [t for k in keys for t in database.tuning.trials(k)]
        best = next(t for t in trials if t.candidate != ZERO_TRIAL)
        key, moved = best.key, dataclasses.replace(best.key, hardware="c" * 16)
        fast = dataclasses.replace(best, key=moved, median_s=1e-9, id="a" * 32)
        database.tuning.finish(fast)
        assert [t.id for t in database.tuning.neighbours(key)] == ["a" * 32]
        assert database.tuning.neighbours(moved)
        assert tuned_by(database, target, hardware="c" * 16)(key.workload_hash) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (3, 3), (None, None)],
)
def test_budgets_are_times(text: Any, seconds: float | None) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "0", "nan", "inf", "10d", "m"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a time: give seconds, or 90s, 10m, 1h"):
        parse_budget(text)


def test_a_budget_ends_the_search(url: str, model: Model) -> None:
    result = tune(model, budget="1s", db=url)
    assert result.stopped == "budget"
    assert 0 < result.trials < 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"trials": "12"}, "trials is '12': it must be an int"),
        ({"seed": -1}, "seed is -1: it must be an int of at least 0"),
        ({"budget": "x"}, "is not a time"),
    ],
)
def test_bad_options_are_refused(
    url: str, model: Model, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tune(model, db=url, **options)


def test_a_target_that_cannot_run_here_needs_devices(url: str, model: Model) -> None:
    with pytest.raises(TargetError, match=r"cannot run code for arm:dotprod.*name a tracker"):
        tune(model, target="arm:dotprod", db=url)


def test_fewer_trials_than_kernels_give_verdicts_on_those_that_were_tried(
    url: str, model: Model
) -> None:
    result = run(url, model, 3)
    kernels = len(result.kernels)
    assert f"{kernels - 3} kernels were not looked at yet: the same command goes on" in result.notes
    assert "3 trials (3 new, 0 failed; as many as were asked for)" in str(result)
    with open_database(url) as database:
        assert database.tuning.count()["trials"] == 3
        keys = database.tuning.keys()
        assert len(database.tuning.winners(keys)) == 3


def test_a_model_without_kernels_is_told(url: str, tmp_path: Path) -> None:
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])
    named = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [shape], [named])
    onnx.save(helper.make_model(graph), tmp_path / "identity.onnx")
    with pytest.raises(InputError, match="identity has no kernel, so there is nothing to tune"):
        run(url, load_model(tmp_path / "identity.onnx"), 3)


def test_a_file_in_place_of_a_model_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="load_model makes one of a file"):
        tune("model.onnx", db=url)  # type: ignore[arg-type]


def test_the_version_of_schedules_is_stable_and_differs_by_family() -> None:
    assert schedule_version("x86") == schedule_version("x86")
    assert len(schedule_version("x86")) == 12
    assert schedule_version("x86") != schedule_version("arm")


def _hashes(model: Model) -> list[str]:
    from lepton_tvm.kernels import kernel_calls, kernel_hash
    from lepton_tvm.pipeline import fuse

    fused = fuse(model.module, parse_target("native")).module
    return list(dict.fromkeys(kernel_hash(fused[name]) for name, _ in kernel_calls(fused)))


def _store(database: Database, key: Any, decisions: dict[str, int]) -> None:
    from lepton_tvm.db import Winner
    from lepton_tvm.tuning.space import candidate_text

    database.tuning.add_workload(key.workload_hash, "kernel", "{}")
    database.tuning.add_winners(
        [
            Winner(
                key=key, trial_id=None, candidate=candidate_text(decisions), decisions=decisions,
                ratio=2.0, ci95=(1.9, 2.1), job_id=None,
            )
        ]
    )  # fmt: skip


def test_its_trials_can_be_read_by_tvms_own_database(
    tuned: tuple[str, TuneResult], tmp_path: Path
) -> None:
    from tvm.s_tir.meta_schedule.database import JSONDatabase

    from lepton_tvm.db.why import explain
    from lepton_tvm.tuning.metaschedule_json import RECORDS, WORKLOADS, export_metaschedule

    url, result = tuned
    with open_database(url) as database:
        report = export_metaschedule(database, tmp_path)
        assert all("they have no trace" in text for text in report.skipped)
        (name,) = {m.name for m in database.models()}
        key = trial_key("", parse_target("native"), this_machine().fingerprint).to_json()
        del key["workload_hash"]
        told = explain(database, name, key)
    read = JSONDatabase(str(tmp_path / WORKLOADS), str(tmp_path / RECORDS), allow_missing=False)
    assert len(read) == report.records > 0
    assert [e.used for e in told] == [True] * len(result.kernels)
