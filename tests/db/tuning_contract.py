"""What every backend must do for tuning: claims, trials once each, winners, cost models."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest

from lepton_tvm.db import Database, Finished, Trial, TrialKey, Winner, candidate_text
from lepton_tvm.errors import DatabaseError, InputError
from tests.db.contract import OTHER, trial
from tests.db.workers import KEY

WANTED = [(KEY, f"candidate {i}") for i in range(8)]


def done(candidate: str, key: TrialKey = KEY, **fields: Any) -> Trial:
    return Trial(key, "ok", None, [1e-3], 1e-3, candidate=candidate, decisions={}, **fields)


class TuningContract:
    """Give fixtures `db` of an empty, writable database and `tuned` of the same."""

    def test_workloads_come_back(self, db: Database) -> None:
        db.tuning.add_workloads([("w1", "conv", "é" * 1000), ("w2", "dense", "IR")])
        db.tuning.add_workloads([("w2", "renamed", "changed"), ("w3", "pool", "")])
        assert db.tuning.workload("w1") == ("conv", "é" * 1000)
        assert db.tuning.workload("w2") == ("dense", "IR")
        assert db.tuning.workload("w3") == ("pool", "")
        assert db.tuning.workload("w4") is None

    def test_a_candidate_is_claimed_once(self, tuned: Database) -> None:
        claim = tuned.tuning.claim
        assert claim([KEY], WANTED[:3] * 2, limit=None, job_id="a") == WANTED[:3]
        assert claim([KEY], WANTED[:5], limit=None, job_id="b") == WANTED[3:5]
        assert claim([KEY], WANTED[:5], limit=None, job_id="a") == []
        assert tuned.tuning.finish(done(WANTED[0][1]))
        assert claim([KEY], WANTED[:1], limit=None, job_id="b") == []
        same_for_another_key = [(OTHER, WANTED[0][1])]
        assert claim([OTHER], same_for_another_key, limit=None, job_id="b") == same_for_another_key

    def test_the_limit_counts_trials_and_claims_of_all_keys(self, tuned: Database) -> None:
        claim = tuned.tuning.claim
        keys = [KEY, OTHER]
        assert claim(keys, WANTED, limit=4, job_id="a") == WANTED[:4]
        assert claim(keys, [(OTHER, "x")], limit=4, job_id="b") == []
        for _, candidate in WANTED[:4]:
            tuned.tuning.finish(done(candidate))
        assert claim(keys, [(OTHER, "x")], limit=4, job_id="b") == []
        assert claim(keys, [(OTHER, "x")], limit=5, job_id="b") == [(OTHER, "x")]
        assert tuned.tuning.count(keys) == {"workloads": 2, "trials": 4, "claims": 1}
        assert tuned.tuning.count([OTHER]) == {"workloads": 1, "trials": 0, "claims": 1}

    def test_released_and_expired_claims_are_given_out_again(self, tuned: Database) -> None:
        tuning = tuned.tuning
        assert tuning.claim([KEY], WANTED[:2], limit=2, job_id="a", lease_s=3600) == WANTED[:2]
        assert tuning.claim([KEY], WANTED[:2], limit=2, job_id="b") == []
        assert tuning.release("a") == 2
        assert tuning.release("a") == 0
        assert tuning.claim([KEY], WANTED[:2], limit=2, job_id="b", lease_s=0) == WANTED[:2]
        time.sleep(0.01)
        assert tuning.claim([KEY], WANTED[:2], limit=2, job_id="c", lease_s=0) == WANTED[:2]
        assert tuning.renew("c", 3600) == 2
        assert tuning.claim([KEY], WANTED[:2], limit=2, job_id="d") == []

    def test_claims_of_other_hosts_last_for_their_lease(
        self, tuned: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("lepton_tvm.db.claims.host_id", lambda: "another/boot.1/5")
            tuned.tuning.claim([KEY], WANTED[:1], limit=None, job_id="a")
        assert tuned.tuning.claim([KEY], WANTED[:1], limit=None, job_id="b") == []

    def test_claims_that_cannot_be(self, tuned: Database) -> None:
        claim = tuned.tuning.claim
        with pytest.raises(InputError, match="not among the keys of the limit"):
            claim([OTHER], WANTED[:1], limit=1, job_id="a")
        with pytest.raises(InputError, match="has 2000 bytes; allowed are 1 to 1024"):
            claim([KEY], [(KEY, "x" * 2000)], limit=1, job_id="a")
        unknown = dataclasses.replace(KEY, workload_hash="u" * 64)
        with pytest.raises(DatabaseError, match="store it with add_workloads first"):
            claim([unknown], [], limit=1, job_id="a")

    def test_finishing_is_idempotent(self, tuned: Database) -> None:
        tuned.tuning.claim([KEY], WANTED[:2], limit=None, job_id="a")
        first = done(WANTED[0][1])
        assert tuned.tuning.finish(first)
        assert not tuned.tuning.finish(first)
        assert not tuned.tuning.finish(done(WANTED[0][1]))
        assert tuned.tuning.trials(KEY) == [first]
        assert tuned.tuning.count() == {"workloads": 2, "trials": 1, "claims": 1}

    def test_all_of_a_trial_comes_back(self, tuned: Database) -> None:
        with tuned.job("tune") as job:
            whole = Trial(
                key=KEY,
                state="wrong",
                trace={"steps": [1, None, "ä"]},
                samples_s=[1e-3, 2e-3],
                median_s=1.5e-3,
                error="differs by 0.5",
                job_id=job.id,
                decisions={"tile": 4, "vector": 16},
                variant_hash=OTHER.workload_hash,
                reference_s=3e-3,
            )
            assert whole.candidate == '{"tile":4,"vector":16}'
            tuned.tuning.finish(whole)
        assert tuned.tuning.trials(KEY) == [whole]
        assert tuned.tuning.best(KEY) is None
        bare = Trial(KEY, "crashed", None, [], None, error="signal 11 \x00 at 0")
        tuned.tuning.finish(bare)
        stored = tuned.tuning.trials(KEY)[-1]
        assert stored == dataclasses.replace(bare, error="signal 11 \ufffd at 0")
        assert tuned.tuning.finished([KEY, OTHER]) == {
            KEY: [
                Finished(whole.candidate, "wrong", 1.5e-3, 3e-3, whole.id),
                Finished(candidate_text(None, None), "crashed", None, None, bare.id),
            ],
            OTHER: [],
        }

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"state": "good"}, "state 'good' is not one of"),
            ({"median_s": float("nan")}, "finite seconds"),
            ({"samples_s": [float("inf")]}, "finite seconds"),
            ({"median_s": None}, "state ok needs median_s"),
            ({"candidate": "a\x00b"}, "without NUL"),
        ],
    )
    def test_trials_that_cannot_be(
        self, tuned: Database, fields: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            tuned.tuning.finish(dataclasses.replace(trial(), **fields))
        assert tuned.tuning.count()["trials"] == 0

    @pytest.mark.parametrize("part", [f.name for f in dataclasses.fields(TrialKey)])
    def test_records_are_never_used_for_another_key(self, tuned: Database, part: str) -> None:
        tuning = tuned.tuning
        known, foreign = trial(), dataclasses.replace(KEY, **{part: OTHER.workload_hash})
        tuning.finish(known)
        tuning.add_winners([Winner(KEY, known.id, known.candidate, {}, 2.0, (1.9, 2.1))])
        assert tuning.best(foreign) is None
        assert tuning.trials(foreign) == []
        assert tuning.winner(foreign) is None
        assert tuning.winners([foreign]) == {}
        assert tuning.finished([foreign]) == {foreign: []}
        assert tuning.count([foreign])["trials"] == 0
        alike = part not in ("workload_hash", "target")  # a kernel of the same instruction set
        assert tuning.neighbours(foreign) == ([known] if alike else [])
        # and that candidate is still to be tried for the other key
        wanted = [(foreign, known.candidate)]
        assert tuning.claim([foreign], wanted, limit=1, job_id="a") == wanted

    def test_neighbours_are_other_machines_fastest_first(self, tuned: Database) -> None:
        keys = [dataclasses.replace(KEY, hardware=f"cpu{i}") for i in range(3)]
        slow, fast, failed = trial(keys[1], 5e-3), trial(keys[2], 1e-3), trial(keys[1], None)
        tuned.tuning.add_trials([trial(KEY), slow, fast, failed])
        assert tuned.tuning.neighbours(KEY) == [fast, slow]
        assert tuned.tuning.neighbours(KEY, limit=1) == [fast]

    def test_neighbours_have_the_same_instruction_set(self, tuned: Database) -> None:
        targets = ["x86:avx2", "x86:avx2 cores=2 threads=1", "x86:avx2 cores=8 threads=4"]
        others = ["x86:avx512 cores=2", "x86:avx2x cores=2", "arm:neon cores=2"]
        keys = [dataclasses.replace(KEY, target=t) for t in (*targets, *others)]
        made = [trial(key, 1e-3 * n) for n, key in enumerate(keys, 1)]
        tuned.tuning.add_trials(made)
        assert tuned.tuning.neighbours(keys[1]) == [made[0], made[2]]

    def test_the_newest_winner_counts(self, tuned: Database) -> None:
        tried = trial()
        tuned.tuning.finish(tried)
        zero = Winner(KEY, None, "{}", {}, 1.0, (1.0, 1.0))
        newer = Winner(KEY, tried.id, tried.candidate, tried.decisions, 1.5, (1.4, 1.6))
        tuned.tuning.add_winners([newer, zero])
        tuned.tuning.add_winners([zero])
        assert tuned.tuning.winner(KEY) == newer
        assert tuned.tuning.winners([KEY, OTHER]) == {KEY: newer}

    def test_cost_models_are_kept_by_target_and_versions(self, tuned: Database) -> None:
        tuning = tuned.tuning
        key = (KEY.target, KEY.tvm_version, KEY.schedule_version, "xgboost")
        assert tuning.load_cost_model(*key) is None
        tuning.save_cost_model(*key, b"\x00\xff first", 10)
        tuning.save_cost_model(*key, b"\x00\xff second", 20)
        assert tuning.load_cost_model(*key) == b"\x00\xff second"
        for i in range(4):
            foreign = list(key)
            foreign[i] = "other"
            assert tuning.load_cost_model(*foreign) is None
