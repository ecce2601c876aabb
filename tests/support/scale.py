"""A small kernel, schedules of it, and records of those as TVM's own tuner commits them."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.s_tir.meta_schedule.database import TuningRecord
from tvm.script import ir as I
from tvm.script import tirx as T

TARGET = tvm.target.Target({"kind": "llvm", "num-cores": 1})


@I.ir_module(s_tir=True)
class Scale:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((64, 64)), b: T.Buffer((64, 64))) -> None:  # type: ignore[valid-type]
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for i, j in T.grid(64, 64):
            with T.sblock("scale"):
                vi, vj = T.axis.remap("SS", [i, j])
                b[vi, vj] = a[vi, vj] * T.float32(2)


def scheduled(width: int) -> Any:
    """A schedule of Scale that vectorises so many lanes."""
    schedule = tvm.s_tir.Schedule(Scale)
    *_, j = schedule.get_loops(schedule.get_sblock("scale"))
    _, lanes = schedule.split(j, [None, width])
    schedule.vectorize(lanes)
    return schedule


def fill(database: Any, seconds: dict[int, float], target: Any = TARGET) -> None:
    """Records of a width each, as TVM's tuner would commit them."""
    kernel = database.commit_workload(Scale)
    for width, time in seconds.items():
        trace = scheduled(width).trace
        database.commit_tuning_record(TuningRecord(trace, kernel, [time, time], target, None))
