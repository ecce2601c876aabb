"""What a tuning record is used for: exactly its own key."""

from __future__ import annotations

import dataclasses
from typing import Any

from lepton_tvm.compiler import compile as compiler
from lepton_tvm.compiler.tuned import trial_key, tuned_by
from lepton_tvm.db import Database, Winner, open_database
from lepton_tvm.measure import this_machine
from lepton_tvm.model import Model
from lepton_tvm.targets import parse_target
from lepton_tvm.tuning.space import ZERO_TRIAL, candidate_text
from tests.support.searches import hashes_of, keys_of, run


def test_a_record_is_used_for_exactly_its_own_key(url: str, model: Model) -> None:
    """Each part of the key alone keeps a winner from being used."""
    target, machine = parse_target("native"), this_machine().fingerprint
    own = trial_key(hashes_of(model)[1], "conv2d_1", target, machine)
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
            store(database, dataclasses.replace(own, **{part: value}), winner)
        find = tuned_by(database, target)
        assert [find(k) for k in hashes_of(model)] == [None] * len(hashes_of(model))
        made = compiler.compile(model, db=database)
        assert not any(k["decisions"] for k in made.manifest["kernels"])
        assert tuned_by(database, target, threads=2)(own.workload_hash) is None
        store(database, own, winner)
        assert find(own.workload_hash) == winner
        changed = compiler.compile(model, db=database)
        used = [k["decisions"] for k in changed.manifest["kernels"] if k["decisions"]]
        assert used == [winner]
        assert tuned_by(database, target, threads=2)(own.workload_hash) is None
        assert tuned_by(database, target, hardware="e" * 16)(own.workload_hash) is None


def store(database: Database, key: Any, decisions: dict[str, int]) -> None:
    database.tuning.add_workload(key.workload_hash, "kernel", "{}")
    database.tuning.add_winners(
        [
            Winner(
                key=key, trial_id=None, candidate=candidate_text(decisions), decisions=decisions,
                ratio=2.0, ci95=(1.9, 2.1), job_id=None,
            )
        ]
    )  # fmt: skip


def test_neighbours_seed_the_search_and_win_nothing(url: str, model: Model) -> None:
    run(url, model, 30)
    with open_database(url) as database:
        target = parse_target("native")
        machine = this_machine().fingerprint
        keys = keys_of(model, target, machine)
        trials = [t for k in keys for t in database.tuning.trials(k)]
        best = next(t for t in trials if t.candidate != ZERO_TRIAL)
        key, moved = best.key, dataclasses.replace(best.key, hardware="c" * 16)
        fast = dataclasses.replace(best, key=moved, median_s=1e-9, id="a" * 32)
        database.tuning.finish(fast)
        assert [t.id for t in database.tuning.neighbours(key)] == ["a" * 32]
        assert database.tuning.neighbours(moved)
        assert tuned_by(database, target, hardware="c" * 16)(key.workload_hash) is None
