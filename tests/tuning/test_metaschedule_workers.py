"""TVM's own tuner on our builders and runners."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.builder import BuilderInput
from tvm.s_tir.meta_schedule.runner import RunnerInput
from tvm.script import ir as I
from tvm.script import tirx as T

from lepton_tvm.db import open_database
from lepton_tvm.errors import InputError
from lepton_tvm.targets import parse_target
from lepton_tvm.tuning.metaschedule import LeptonDatabase
from lepton_tvm.tuning.metaschedule_workers import LeptonBuilder, LeptonRunner
from lepton_tvm.workers import Built, LocalRunner, ParallelBuilder, RunResult


@I.ir_module(s_tir=True)
class Product:
    @T.prim_func(s_tir=True)
    def main(
        a: T.Buffer((48, 64)),  # type: ignore[valid-type]
        b: T.Buffer((64, 32)),  # type: ignore[valid-type]
        c: T.Buffer((48, 32)),  # type: ignore[valid-type]
    ) -> None:
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for i, j, k in T.grid(48, 32, 64):
            with T.sblock("product"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    c[vi, vj] = T.float32(0)
                c[vi, vj] = c[vi, vj] + a[vi, vk] * b[vk, vj]


def test_tvms_tuner_works_with_them(tmp_path: Path, ms: Any) -> None:
    # the least of this machine: what MetaSchedule does for others needs its intrinsics
    goal = parse_target("arm:neon" if platform.machine() == "aarch64" else "x86:sse")
    target = goal.tvm
    with (
        open_database(str(tmp_path / "lepton.db")) as database,
        ParallelBuilder() as builder,
        LocalRunner() as runner,
    ):
        ours = LeptonDatabase(database, target)
        few = ms.search_strategy.EvolutionarySearch(
            population_size=16, init_min_unmeasured=4, max_fail_count=2, genetic_num_iters=1
        )
        ms.tune_tir(
            Product, target, str(tmp_path / "work"), 12, num_trials_per_iter=4, seed=1,
            builder=LeptonBuilder(builder, goal), runner=LeptonRunner(runner, tmp_path / "in"),
            database=ours, strategy=few, cost_model=ms.cost_model.XGBModel(num_tuning_cores=1),
        )  # fmt: skip
        (key,) = database.tuning.keys()
        stored = database.tuning.trials(key)
        assert [t.state for t in stored] == ["ok"] * len(stored)
        assert 8 <= len(stored) <= 12
        assert all(0 < s < 1e-2 for t in stored for s in t.samples_s)
        best = ours.query_ir_module(Product, target, "main")
    assert not list(builder.folder.glob("**/*.so"))
    a, b = (np.random.default_rng(0).random(s, np.float32) for s in ((48, 64), (64, 32)))
    out = tvm.runtime.tensor(np.zeros((48, 32), np.float32))
    tvm.compile(best, target)(tvm.runtime.tensor(a), tvm.runtime.tensor(b), out)
    np.testing.assert_allclose(out.numpy(), a @ b, rtol=1e-5)


def test_failures_are_told(tmp_path: Path) -> None:
    other = tvm.target.Target({"kind": "llvm", "num-cores": 77})
    scheduled = tvm.s_tir.Schedule(Product)
    with ParallelBuilder() as builder, LocalRunner() as runner:
        made = LeptonBuilder(builder)
        fitting = BuilderInput(scheduled.mod, made.target.tvm)
        good, wrong = made.build([fitting, BuilderInput(scheduled.mod, other)])
        assert good.error_msg is None
        assert wrong.artifact_path is None
        assert "makes code for" in str(wrong.error_msg)
        shapes = [[48, 64], [64, 32], [48, 32]]
        arguments = [ArgInfo.from_json(["TENSOR", "float32", s]) for s in shapes]
        timed = LeptonRunner(runner, tmp_path)
        broken = tmp_path / "broken.so"
        broken.write_bytes(b"no library")
        here, not_here = timed.run(
            [RunnerInput(str(p), "cpu", arguments) for p in (good.artifact_path, broken)]
        )
        assert here.result().run_secs
        assert not_here.result().run_secs is None
        assert "broken.so" in str(not_here.result().error_msg)
        with pytest.raises(InputError, match="threads is 0"):
            LeptonRunner(runner, tmp_path, threads=0)


class Full:
    """A builder and runner without room."""

    def build(self, requests: Any) -> Any:
        return [
            Built(r.id, "failed", None, "the disk is full", 0.0, reason="disk-full")
            for r in requests
        ]

    def run(self, requests: Any) -> Any:
        return [
            RunResult(r.id, "failed", error="the disk is full", reason="disk-full")
            for r in requests
        ]


def test_a_full_disk_is_no_fault_of_a_candidate(tmp_path: Path) -> None:
    full: Any = Full()
    made = LeptonBuilder(full)
    with pytest.raises(RuntimeError, match="the trials cannot go on: the disk is full"):
        made.build([BuilderInput(Product, made.target.tvm)])
    with pytest.raises(RuntimeError, match="the trials cannot go on: the disk is full"):
        LeptonRunner(full, tmp_path).run([RunnerInput("x.so", "cpu", [])])
