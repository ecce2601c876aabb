"""What every backend of the database must do; a backend's tests subclass this."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from lepton_tvm.db import Database, Evaluation, Measurement, Trial, TrialKey
from lepton_tvm.errors import ArtifactError
from tests.db.workers import KEY
from tests.support.artifact_file import make_artifact

OTHER = dataclasses.replace(KEY, workload_hash="v" * 64)


_numbers = itertools.count()


def trial(key: TrialKey = KEY, median: float | None = 1e-3, **fields: object) -> Trial:
    """A trial of a candidate that no other call gave out."""
    fields = {
        "state": "ok" if median is not None else "failed",
        "decisions": {"tile": next(_numbers)},
        **fields,
    }
    samples = [median] if median is not None else []
    return Trial(key, trace=[["tile", 4]], samples_s=samples, median_s=median, **fields)  # type: ignore[arg-type]


def measurement(sha256: str, run: str = "r" * 32) -> Measurement:
    return Measurement(run, sha256, "cpu0", {"cpu": "test"}, 1, 2e-3, [1e-3, 2e-3, 3e-3])


class DatabaseContract:
    """Give a fixture `db` of an empty, writable database."""

    def test_artifact_and_its_model_come_back(self, db: Database, artifact: Path) -> None:
        stored = db.add_artifact(artifact)
        assert (stored.variant, stored.target, stored.isa) == ("float32", "x86:avx2", "avx2")
        assert stored.size_bytes == artifact.stat().st_size
        assert db.artifacts() == [stored]
        assert db.artifact(stored.sha256[:10]) == stored
        assert db.artifact_path(stored).read_bytes() == artifact.read_bytes()
        (model,) = db.models()
        assert (model.name, model.id) == ("net", stored.model_id)
        assert db.models("net") == db.models(model.id[:12]) == db.models("a" * 64) == [model]
        assert db.models("another") == []

    def test_adding_twice_changes_nothing(self, db: Database, artifact: Path) -> None:
        first = db.add_artifact(artifact)
        again = db.add_artifact(artifact, variant="renamed")
        assert again == first
        assert len(db.artifacts()) == len(db.models()) == 1

    def test_look_ups_never_cross_targets(
        self, db: Database, artifact: Path, tmp_path: Path
    ) -> None:
        here = db.add_artifact(artifact)
        there = db.add_artifact(make_artifact(tmp_path / "b.so", target="x86:vnni"))
        assert db.artifacts(target="x86:avx2") == [here]
        assert db.artifacts(target="x86:vnni") == [there]
        assert db.artifacts(target="arm:neon") == []
        assert db.artifacts(source_sha256="a" * 64, variant="int8") == []

    def test_other_input_shapes_are_another_model(
        self, db: Database, artifact: Path, tmp_path: Path
    ) -> None:
        db.add_artifact(artifact)
        wide = [{"name": "x", "shape": (1, 9), "dtype": "float32"}]
        db.add_artifact(make_artifact(tmp_path / "b.so", inputs=wide))
        assert len(db.models("net")) == 2

    def test_unknown_and_ambiguous_hashes(self, db: Database, artifact: Path) -> None:
        with pytest.raises(ArtifactError, match="no artifact has a sha256 that begins with 'f00'"):
            db.artifact("f00")
        db.add_artifact(artifact)
        with pytest.raises(ArtifactError, match="begins with ''"):
            db.artifact("")

    def test_results_come_back_with_raw_samples(self, db: Database, artifact: Path) -> None:
        sha = db.add_artifact(artifact).sha256
        timed = measurement(sha)
        judged = Evaluation(timed.run_id, sha, None, "d" * 64, 100, "top1", 0.5, 0.9, 31.5)
        db.add_results([timed], [judged])
        db.add_results([timed], [judged])
        assert db.measurements(sha) == db.measurements(run_id=timed.run_id) == [timed]
        assert db.evaluations(sha) == db.evaluations(run_id=timed.run_id) == [judged]
        assert db.measurements(run_id="none") == []

    def test_jobs_end_as_they_ended(self, db: Database) -> None:
        with db.job("compile", {"target": "x86"}, {"calibration": 7}) as job:
            job.progress(done=3)
            job.seed("search", 8)
            assert db.jobs(state="running")[0].progress == {"done": 3}
        with pytest.raises(ZeroDivisionError), db.job("tune"):
            _ = 1 / 0
        with pytest.raises(KeyboardInterrupt), db.job("tune"):
            raise KeyboardInterrupt
        done, failed, cut = db.jobs()
        assert (done.state, done.seeds, done.options) == (
            "done",
            {"calibration": 7, "search": 8},
            {"target": "x86"},
        )
        assert (failed.state, failed.error) == ("failed", "ZeroDivisionError: division by zero")
        assert (cut.state, cut.error) == ("interrupted", "KeyboardInterrupt")
        assert [j.id for j in db.jobs(kind="tune")] == [failed.id, cut.id]

    def test_ended_jobs_are_not_edited(self, db: Database) -> None:
        with db.job("compile") as job:
            pass
        before = db.jobs()
        job.progress(done=99)
        assert db.jobs() == before

    def test_trials_by_key_fastest_first(self, db: Database) -> None:
        db.tuning.add_workload(KEY.workload_hash, "conv", "IR text")
        db.tuning.add_workload(KEY.workload_hash, "conv", "IR text")
        slow, fast, failed = trial(median=5e-3), trial(median=1e-3), trial(median=None, error="x")
        db.tuning.add_trials([slow, failed, fast])
        db.tuning.add_trials([slow])
        assert db.tuning.trials(KEY) == [fast, slow, failed]
        assert db.tuning.best(KEY) == fast
        assert db.tuning.count() == {"workloads": 1, "trials": 3, "claims": 0}

    def test_trials_of_unknown_workloads_store_nothing(self, db: Database) -> None:
        from lepton_tvm.errors import DatabaseError

        with pytest.raises(DatabaseError):
            db.tuning.add_trials([trial()])
        assert db.tuning.count() == {"workloads": 0, "trials": 0, "claims": 0}
