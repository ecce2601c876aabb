"""TVM's own tuner on our database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.database import JSONDatabase, TuningRecord, Workload

from lepton_tvm.db import Database, open_database
from lepton_tvm.errors import InputError
from lepton_tvm.tuning.metaschedule import LeptonDatabase, workload_hash
from tests.support.scale import TARGET, Scale, fill, scheduled


def test_it_answers_as_tvms_own_database(db: Database, tmp_path: Path) -> None:
    ours = LeptonDatabase(db, TARGET, "cpu0")
    stock = JSONDatabase(work_dir=str(tmp_path))
    assert not ours.has_workload(Scale)
    for database in (ours, stock):
        fill(database, {4: 4e-3, 16: 1e-3, 8: 2e-3})
    with ours, stock:
        for database in (ours, stock):
            kernel = database.commit_workload(Scale)
            assert database.has_workload(Scale)
            assert len(database) == 3
            times = [[float(t) for t in r.run_secs] for r in database.get_top_k(kernel, 2)]
            assert times == [[1e-3, 1e-3], [2e-3, 2e-3]]
            assert len(database.get_all_tuning_records()) == 3
            best = database.query_schedule(Scale, TARGET, "main")
            tvm.ir.assert_structural_equal(best.mod, scheduled(16).mod)


def test_it_answers_for_its_target_and_machine_only(db: Database) -> None:
    fill(LeptonDatabase(db, TARGET, "cpu0"), {4: 4e-3})
    wider = tvm.target.Target({"kind": "llvm", "num-cores": 2})
    here = LeptonDatabase(db, TARGET, "cpu0")
    assert here.query_tuning_record(Scale, TARGET, "main") is not None
    assert here.query_tuning_record(Scale, wider, "main") is None
    for other in (LeptonDatabase(db, wider, "cpu0"), LeptonDatabase(db, TARGET, "cpu1")):
        assert len(other) == 0
        assert other.query_ir_module(Scale, TARGET, "main") is None
        assert other.query_ir_module(Scale, wider, "main") is None


def test_a_record_of_another_target_is_refused(db: Database) -> None:
    wider = tvm.target.Target({"kind": "llvm", "num-cores": 2})
    here = LeptonDatabase(db, TARGET, "cpu0")
    # TVM gives the message of an error, not its class
    with pytest.raises((InputError, RuntimeError), match=r"num-cores\D+2.* does not belong"):
        fill(here, {4: 4e-3}, wider)
    assert len(here) == 0


def test_a_record_brings_its_kernel(db: Database) -> None:
    kernel, trace = Workload(Scale), scheduled(4).trace
    ours = LeptonDatabase(db, TARGET, "cpu0")
    ours.commit_tuning_record(TuningRecord(trace, kernel, [4e-3], TARGET, None))
    assert LeptonDatabase(db, TARGET, "cpu0").query_tuning_record(Scale, TARGET, "main") is not None


def test_a_read_only_database_answers(db: Database, tmp_path: Path) -> None:
    fill(LeptonDatabase(db, TARGET, "cpu0"), {4: 4e-3})
    db.close()
    (tmp_path / "lepton.db").chmod(0o444)
    with open_database(str(tmp_path / "lepton.db")) as readonly:
        assert readonly.readonly
        ours = LeptonDatabase(readonly, TARGET, "cpu0")
        assert ours.query_tuning_record(Scale, TARGET, "main") is not None


def test_tvms_tuner_writes_into_it(db: Database, tmp_path: Path, ms: Any) -> None:
    @derived_object
    class Builder(ms.builder.PyBuilder):
        """Builds nothing: the runner computes times from the schedules."""

        def build(self, inputs: list[Any]) -> list[Any]:
            # the tuner removes the folder of what was built
            files = [tmp_path / f"built{i}" / "kernel" for i in range(len(inputs))]
            for file in files:
                file.parent.mkdir(exist_ok=True)
            return [ms.builder.BuilderResult(str(file), None) for file in files]

    @derived_object
    class Future(ms.runner.PyRunnerFuture):
        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.seconds = seconds

        def done(self) -> bool:
            return True

        def result(self) -> Any:
            return ms.runner.RunnerResult([self.seconds], None)

    @derived_object
    class Runner(ms.runner.PyRunner):
        def run(self, inputs: list[Any]) -> list[Any]:
            times = np.random.default_rng(0).uniform(1e-3, 2e-3, len(inputs))
            return [Future(float(t)) for t in times]

    ours = LeptonDatabase(db, TARGET, "cpu0")
    ms.tune_tir(
        Scale,
        TARGET,
        work_dir=str(tmp_path),
        max_trials_global=4,
        num_trials_per_iter=4,
        builder=Builder(),
        runner=Runner(),
        database=ours,
        cost_model="random",
        strategy="replay-trace",
        seed=1,
    )
    (key,) = db.tuning.keys()
    assert key.workload_hash == workload_hash(Scale)
    stored = db.tuning.trials(key)
    assert 1 <= len(stored) <= 4
    replayed = ours.query_schedule(Scale, TARGET, "main")
    again = tvm.s_tir.Schedule(Scale)
    tvm.s_tir.Trace.apply_json_to_schedule(stored[0].trace, again)
    tvm.ir.assert_structural_equal(replayed.mod, again.mod)
    x = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    out = tvm.runtime.tensor(np.zeros_like(x))
    tvm.compile(replayed.mod, TARGET)(tvm.runtime.tensor(x), out)
    np.testing.assert_array_equal(out.numpy(), 2 * x)
