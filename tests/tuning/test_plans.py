"""Every lowering that a search may choose computes what the default one does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax

from lepton_tvm.compiler.fused_kernels import anchor_notes, kernel_calls, kernel_hash, ops_of_calls
from lepton_tvm.compiler.pipeline import Build, build, fuse
from lepton_tvm.compression.quantize import quantize
from lepton_tvm.demo.assets import calibration, model_path
from lepton_tvm.frontend import load_model
from lepton_tvm.kernels.kernel_plan import PlansByOp
from lepton_tvm.model import Model
from lepton_tvm.schedules.upstream import upstream_schedule
from lepton_tvm.targets import parse_target
from lepton_tvm.tuning.space import Space
from lepton_tvm.tuning.tasks import Tasks


def outputs(built: Build, x: np.ndarray) -> np.ndarray:
    machine = relax.VirtualMachine(built.executable, tvm.cpu())
    answer: np.ndarray = machine["main"](tvm.runtime.tensor(x)).numpy()
    return answer


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    model = load_model(model_path())
    return {"float32": model, "int8": quantize(model, calibration())}


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("index", [1, 3, -1])
def test_other_plans_for_all_kernels_compute_the_same(
    models: dict[str, Model], precision: str, index: int
) -> None:
    model, target = models[precision], parse_target("native")
    seen = PlansByOp()
    fused = fuse(model.module, target, plans=seen).module
    ops = ops_of_calls(fused, seen.weights)
    calls = kernel_calls(fused)
    assert len(ops) == len(calls)
    wanted = {}
    for (name, _), op in zip(calls, ops, strict=True):
        if op is not None:
            plans = seen.candidates[op]
            wanted[kernel_hash(fused[name])] = plans[min(index, len(plans) - 1)].decisions
    assert wanted
    zero = build(model.module, target)
    tuned = build(model.module, target, tuned=wanted.get)
    assert sum(bool(k.decisions) for k in tuned.kernels) == len(wanted)
    assert not any(k.decisions for k in zero.kernels)
    x = np.random.default_rng(0).standard_normal((1, 1, 28, 28)).astype("float32")
    a, b = outputs(zero, x), outputs(tuned, x)
    if precision == "int8":
        np.testing.assert_array_equal(a, b)
    else:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(a).max())


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("seed", [1, 2, 7])
def test_samples_of_upstreams_rules_compute_the_same_and_depend_on_the_seed_alone(
    models: dict[str, Model], precision: str, seed: int
) -> None:
    model, target = models[precision], parse_target("native")
    fused = fuse(model.module, target).module
    functions = {kernel_hash(fused[name]): fused[name] for name, _ in kernel_calls(fused)}
    plain = [h for h, func in functions.items() if anchor_notes(func) is None]
    assert plain
    for key in plain:
        once, again = (upstream_schedule(functions[key], target, seed).mod for _ in range(2))
        assert tvm_ffi.structural_equal(once, again)
    built = build(model.module, target, tuned={h: {"upstream_sample": 1} for h in plain}.get)
    assert sum(bool(k.decisions) for k in built.kernels) == len(plain)
    x = np.random.default_rng(0).standard_normal((1, 1, 28, 28)).astype("float32")
    a, b = outputs(build(model.module, target), x), outputs(built, x)
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())


def test_samples_of_upstreams_rules_can_be_built_for_arm(models: dict[str, Model]) -> None:
    target = parse_target("arm:neon")
    fused = fuse(models["float32"].module, target).module
    functions = {kernel_hash(fused[name]): fused[name] for name, _ in kernel_calls(fused)}
    plain = [h for h, func in functions.items() if anchor_notes(func) is None]
    tuned = {h: {"upstream_sample": 1} for h in plain}
    built = build(models["float32"].module, target, tuned=tuned.get)
    assert sum(bool(k.decisions) for k in built.kernels) == len(plain) > 0


def test_plans_that_are_no_candidates_fall_back_to_the_default(models: dict[str, Model]) -> None:
    model, target = models["float32"], parse_target("native")
    fused = fuse(model.module, target).module
    strange = {"tile_rows": 3, "tile_lanes": 5, "tile_vectors": 7}
    hashes = [kernel_hash(fused[name]) for name, _ in kernel_calls(fused)]
    made = build(model.module, target, tuned={h: strange for h in hashes}.get)
    plain = build(model.module, target)
    assert [k.input_shapes for k in made.kernels] == [k.input_shapes for k in plain.kernels]


def test_a_plan_for_other_activations_is_left_out(
    models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Tasks(models["int8"], parse_target("native"), tmp_path)
    task = next(t for t in tasks.all.values() if len(t.plans) > 2)
    tasks.prepare([(task, 1), (task, 2)])
    assert tasks.comparable(task, 1)
    taken = tasks.lowering(task, 1)
    wider = [a if a.constant else replace(a, shape=(*a.shape, 1)) for a in taken.arguments]
    key = task.hash, 1
    monkeypatch.setitem(tasks._lowerings, key, replace(taken, arguments=tuple(wider)))
    assert not tasks.comparable(task, 1)
    assert tasks.comparable(task, 2)
    space = Space(task.plans)
    candidates = space.candidates(np.random.default_rng(0))
    space.drop(1)
    left = space.candidates(np.random.default_rng(0))
    assert left == [c for c in candidates if c.plan != 1] != candidates


def test_a_hash_tells_kernels_apart_and_not_their_names(models: dict[str, Model]) -> None:
    fused = fuse(models["int8"].module, parse_target("native")).module
    names = {name for name, _ in kernel_calls(fused)}
    hashes = {kernel_hash(fused[name]) for name in names}
    assert len(hashes) == len(names) > 5
    name = min(names)
    renamed = fused[name].with_attr("global_symbol", "other")
    assert kernel_hash(renamed) == kernel_hash(fused[name])
