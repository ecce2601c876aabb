"""What is proposed, where, and what the search learns from results."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xgboost

from lepton_tvm.compiler.kernel_info import KernelInfo
from lepton_tvm.kernels.kernel_plan import KernelPlan
from lepton_tvm.kernels.register_tile import RegisterTile
from lepton_tvm.tuning.batches import Plateau
from lepton_tvm.tuning.cost_model import WIDTH, CostModel, features
from lepton_tvm.tuning.search import Search
from lepton_tvm.tuning.space import ZERO_TRIAL, Candidate, Space, candidate_text
from lepton_tvm.tuning.task_state import TaskState, TrialSummary
from lepton_tvm.tuning.tasks import Task
from lepton_tvm.tuning.trees import Trees
from lepton_tvm.tuning.trials import Trials

PLANS = tuple(KernelPlan(RegisterTile(rows, 16, 2)).decisions for rows in (7, 4, 8, 14, 2))
ASKED = {"prefetch_weights": ((0, 1), 1), "unroll_depth": ((1, 2, 4), 1)}


def task(name: str, macs: int = 1 << 20, calls: int = 1) -> Task:
    info = KernelInfo(
        name, "matmul", "int8", "vnni", macs, ((196, 64), (4, 16, 32, 4)), (196, 128),
        "x86.matmul", calls, weight_bytes=64 * 128, bytes=1 << 16,
    )  # fmt: skip
    return Task(name * 4, info, 0, PLANS)


def state(made: Task) -> TaskState:
    space = Space(made.plans)
    space.learn(Candidate(0, {}), ASKED)
    return TaskState(made, space)


def search(*states: TaskState, seed: int = 0) -> Search:
    return Search(states, CostModel(), np.random.default_rng(seed))


def test_a_candidate_is_the_same_text_however_it_was_made() -> None:
    assert candidate_text({"b": 2, "a": 1}) == candidate_text({"a": 1, "b": 2}) == '{"a":1,"b":2}'
    assert ZERO_TRIAL == "{}"


def test_a_space_is_lowerings_times_choices_and_begins_with_the_zero_trial() -> None:
    candidates = state(task("a")).space.candidates(np.random.default_rng(0))
    assert len(candidates) == len(PLANS) * 2 * 3 == len({c.text for c in candidates})
    assert candidates[0] == Candidate(0, {})
    assert Candidate(0, {"unroll_depth": 4}).text in {c.text for c in candidates}
    with_tile = [c for c in candidates if c.plan == 3]
    assert all(PLANS[3].items() <= c.decisions.items() for c in with_tile)
    assert all(not set(c.choices) & set(KernelPlan.names) for c in with_tile)


def test_a_large_space_is_sampled() -> None:
    space = Space(({},))
    space.learn(Candidate(0, {}), {name: (tuple(range(8)), 0) for name in "abcde"})
    candidates = space.candidates(np.random.default_rng(1))
    assert 1000 < len(candidates) <= 8 * 257
    assert candidates[0].decisions == {}


def test_later_questions_may_depend_on_the_first_answer() -> None:
    space = Space(({},))
    order = ((0, 1), 0)
    space.learn(Candidate(0, {}), {"outermost": order, "together": ((1, 2), 1)})
    space.learn(Candidate(0, {"outermost": 1}), {"outermost": order, "prefetch": ((0, 1), 1)})
    texts = [c.text for c in space.candidates(np.random.default_rng(0))]
    assert texts == ["{}", '{"together":2}', '{"outermost":1}', '{"outermost":1,"prefetch":0}']


def test_a_record_finds_its_point_again_and_an_unknown_lowering_none() -> None:
    space = state(task("a")).space
    for candidate in space.candidates(np.random.default_rng(0)):
        assert space.from_text(candidate.text) == candidate
    assert space.from_text('{"tile_rows":99,"tile_lanes":16,"tile_vectors":2}') is None


def test_zero_trials_come_first_and_nothing_twice() -> None:
    states = [state(task(n)) for n in "abc"]
    made = search(*states)
    first = made.propose(3)
    assert [c.text for _, c in first] == [ZERO_TRIAL] * 3
    seen = set()
    for s in states:
        s.add(TrialSummary(ZERO_TRIAL, 1.0, 1e-4))
    for _ in range(4):
        for found, candidate in made.propose(16):
            assert (found.hash, candidate.text) not in seen
            seen.add((found.hash, candidate.text))
            made.states[found.hash].add(TrialSummary(candidate.text, 0.9, 1e-4))


def test_trials_go_where_the_time_is() -> None:
    heavy, light = state(task("h", calls=10)), state(task("l"))
    for s in (heavy, light):
        s.add(TrialSummary(ZERO_TRIAL, 1.0, 1e-4))
    counts = {"h": 0, "l": 0}
    for found, _ in search(heavy, light).propose(24):
        counts[found.name] += 1
    assert counts["h"] > 2 * counts["l"]


def test_neighbours_schedules_are_tried_first() -> None:
    one = state(task("a"))
    one.add(TrialSummary(ZERO_TRIAL, 1.0, 1e-4))
    lent = Candidate(3, {**PLANS[3], "unroll_depth": 4})
    one.seeds.append(lent)
    assert search(one).propose(4)[0][1] == lent
    one.add(TrialSummary(lent.text, 1.2, 1e-4))
    assert lent not in [c for _, c in search(one).propose(8)]


def test_the_search_ends_when_every_point_was_tried() -> None:
    one = state(task("a"))
    one.add(TrialSummary(ZERO_TRIAL, 1.0, 1e-4))
    made = search(one)
    while batch := made.propose(8):
        for _, candidate in batch:
            one.add(TrialSummary(candidate.text, 0.0))
    assert len(one.trials) == 30


def test_the_model_learns_which_tiles_are_fast_and_says_so_after_a_round_trip() -> None:
    one = state(task("a"))
    made = search(one)
    candidates = one.space.candidates(np.random.default_rng(0))
    for candidate in candidates:
        wide = PLANS[candidate.plan]["tile_rows"] == 14
        one.add(
            TrialSummary(
                candidate.text, 1.0 + 0.5 * wide + 0.1 * ("unroll_depth" in candidate.choices)
            )
        )
    made.learn()
    rows = [features(one.task.info, PLANS[c.plan], c.choices) for c in candidates]
    predicted = made.model.predict(rows)
    assert predicted is not None
    best = candidates[int(np.argmax(predicted))]
    assert PLANS[best.plan]["tile_rows"] == 14
    stored = made.model.to_bytes()
    assert stored is not None
    read = CostModel.from_bytes(stored).predict(rows)
    assert read is not None
    np.testing.assert_array_equal(read, predicted)


def test_trees_are_walked_as_xgboost_walks_them() -> None:
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 6, (300, WIDTH)).astype("float32")
    rows[rng.random(rows.shape) < 0.1] = np.nan
    label = np.nan_to_num(rows[:, 3]) - np.nan_to_num(rows[:, 5]) ** 2
    data = xgboost.DMatrix(rows, label=label)
    booster = xgboost.train({"base_score": 0.0, "max_depth": 5}, data, num_boost_round=20)
    trees = Trees.from_dump(booster.get_dump(dump_format="json"), WIDTH)
    np.testing.assert_allclose(trees.predict(rows), booster.predict(data), rtol=1e-5, atol=1e-5)


def model_bytes() -> dict[str, Any]:
    """A sound tree of one split, as it is stored."""
    return {
        "width": WIDTH, "roots": [0], "feature": [2, -1, -1], "threshold": [1.5, 0.0, 0.0],
        "low": [1, 1, 2], "high": [2, 1, 2], "missing": [2, 1, 2], "value": [0.0, -1.0, 1.0],
    }  # fmt: skip


def test_a_stored_tree_is_walked() -> None:
    model = CostModel.from_bytes(json.dumps(model_bytes()).encode())
    rows = [[value] * WIDTH for value in (1.0, 2.0, math.nan)]
    predicted = model.predict(rows)
    assert predicted is not None
    np.testing.assert_allclose(predicted, np.exp([-1, 1, 1]), rtol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"width": WIDTH + 1},
        {"roots": [3]},
        {"roots": [-1]},
        {"roots": [[0]]},
        {"feature": [WIDTH, -1, -1]},
        {"low": [0, 1, 2]},  # a node below itself: a walk without an end
        {"high": [7, 1, 2]},
        {"missing": ["x", 1, 2]},
        {"value": [0.0]},
        {"threshold": None},
    ],
    ids=str,
)
def test_trees_of_a_stranger_that_are_not_sound_are_not_used(change: dict[str, Any]) -> None:
    data = json.dumps({**model_bytes(), **change}).encode()
    assert CostModel.from_bytes(data).trees is None


@pytest.mark.parametrize("data", [b"", b"\x80\x04nonsense", b"{}", b"[1]", b"null", b"[" * 100_000])
def test_bytes_that_are_no_model_give_an_empty_one(data: bytes) -> None:
    assert CostModel.from_bytes(data).predict([[0.0]]) is None


def test_a_plateau_is_counted_from_when_all_kernels_are_known() -> None:
    states = [state(task(n)) for n in "ab"]
    made, plateau = search(*states), Plateau(10)
    assert not plateau.reached(0, made)
    states[0].add(TrialSummary(ZERO_TRIAL, 1.0, 1e-4))
    assert not plateau.reached(15, made)
    states[1].add(TrialSummary(ZERO_TRIAL, 1.0, 1e-4))
    assert not plateau.reached(16, made)
    assert not plateau.reached(25, made)
    states[0].add(TrialSummary('{"unroll_depth":2}', 1.1, 1e-4))
    assert not plateau.reached(26, made)
    assert not plateau.reached(35, made)
    assert plateau.reached(36, made)
    assert not Plateau(None).reached(10_000, made)


def test_nothing_is_tried_beside_a_zero_trial_that_failed() -> None:
    broken, works = state(task("a")), state(task("b"))
    broken.add(TrialSummary(ZERO_TRIAL, 0.0))
    made = search(broken, works)
    assert [(t.name, c.text) for t, c in made.propose(8)] == [("b", ZERO_TRIAL)]
    works.add(TrialSummary(ZERO_TRIAL, 1.0, 1e-4))
    assert {t.name for t, _ in made.propose(8)} == {"b"}


def test_what_cannot_stand_in_for_the_zero_trial_is_not_tried() -> None:
    only = state(task("a"))
    asked: list[Any] = []
    tasks: Any = SimpleNamespace(prepare=asked.extend, comparable=lambda task, plan: plan != 3)
    unused: Any = None
    trials = Trials(shop=unused, options=unused, tasks=tasks, search=search(only), keys={})
    candidates = [Candidate(0, {}), Candidate(1, PLANS[1]), Candidate(3, PLANS[3])]
    assert trials._comparable([(only.task, c) for c in candidates]) == [
        (only.task, c) for c in candidates[:2]
    ]
    assert [plan for _, plan in asked] == [0, 1, 3]
    left, _ = only.candidates(np.random.default_rng(0))
    assert {c.plan for c in left} == {0, 1, 2, 4}
