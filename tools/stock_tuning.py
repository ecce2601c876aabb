"""TVM's own tuner on a float model, beside our schedules without any search.

    python tools/stock_tuning.py model.onnx --shape input=1,3,224,224 --trials 512

MetaSchedule gets the graph that our kernels are made of (batch norms folded, channels last), its
own schedule rules, its XGBoost cost model and its evolutionary search, and our builder and runner,
for its own would take hours. Then both artifacts run in turns, on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.s_tir import meta_schedule as ms

import lepton_tvm as lt
from lepton_tvm import artifact
from lepton_tvm.artifact import read_manifest
from lepton_tvm.cli.options import parse_shapes
from lepton_tvm.measure import Rounds, median_ci, speedup_ci
from lepton_tvm.measure.loaded_artifacts import LocalArtifacts
from lepton_tvm.measure.timing_inputs import random_inputs
from lepton_tvm.targets import parse_target
from lepton_tvm.tuning.metaschedule_workers import LeptonBuilder, LeptonRunner
from lepton_tvm.workers import LocalRunner, ParallelBuilder


def tune(module: tvm.IRModule, target: Any, trials: int, each: int, folder: Path) -> Any:
    """TVM's executable after `trials` trials, `each` of them at a time for one kernel."""
    prepared = relax.get_pipeline("zero")(module)
    with ParallelBuilder() as builder, LocalRunner() as runner:
        found = ms.relax_integration.tune_relax(
            prepared, {}, target, str(folder), trials, num_trials_per_iter=each, seed=0,
            builder=LeptonBuilder(builder), runner=LeptonRunner(runner, folder),
        )  # fmt: skip
    return ms.relax_integration.compile_relax(found, module, target, {})


def main() -> None:
    """Tune, compile both, run them in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shape", action="append", default=[])
    parser.add_argument("--trials", type=int, default=512)
    parser.add_argument("--each", type=int, default=16, help="trials of one kernel at a time")
    options = parser.parse_args()
    model = lt.load_model(options.model, shapes=parse_shapes(options.shape))
    goal = parse_target("native")
    target = goal.tvm
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ours = lt.compile(model, output=folder / "ours.so", db=False)
        began = time.monotonic()
        executable = tune(model.module, target, options.trials, options.each, folder)
        spent = time.monotonic() - began
        stock = artifact.save(executable, folder / "stock.so", dict(read_manifest(ours.path)))
        place = LocalArtifacts()
        place.open({ours.sha256: ours.path, stock: folder / "stock.so"}, 1)
        inputs = random_inputs(model.inputs, 0)
        seconds = place.time([ours.sha256, stock], inputs, Rounds(budget_s=30.0))
    ratio = speedup_ci(seconds[stock], seconds[ours.sha256])
    print(f"MetaSchedule: {options.trials} trials in {spent:.0f} s")
    for name, key in (("MetaSchedule, tuned", stock), ("ours, zero trials", ours.sha256)):
        print(f"{name}: {median_ci(seconds[key]).value * 1e3:.3f} ms")
    print(f"ours is {ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] as fast")


if __name__ == "__main__":
    main()
