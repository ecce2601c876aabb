"""What every backend must do to tell what is in it: counts, pages, and why a record is not used."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from lepton_tvm.db import Database, TrialKey, Winner
from lepton_tvm.db.tuning_keys import ensure_keys, key_id
from lepton_tvm.db.views.find_record import find
from lepton_tvm.db.views.overview import overview
from lepton_tvm.db.views.why import explain
from lepton_tvm.errors import InputError
from tests.db.contract import measurement, trial
from tests.db.workers import KEY

ASKED = {k: v for k, v in KEY.to_json().items() if k != "workload_hash"}


def fill(database: Database, trials: int, kernels: int = 50) -> list[TrialKey]:
    """A model whose kernels have that many trials together, every seventh of them failed."""
    keys = [dataclasses.replace(KEY, workload_hash=f"{i:064x}") for i in range(kernels)]
    model = database.add_model("big", "c" * 64, [], [])
    tuning = database.tuning
    tuning.add_workloads([(k.workload_hash, f"conv{i}", "IR") for i, k in enumerate(keys)])
    tuning.add_tasks(model.id, "int8", KEY.target, {k.workload_hash: 2 for k in keys})
    columns = {
        "id": "", "key_id": "", "candidate": "", "state": "", "median_s": None,
        "reference_s": 2e-3, "decisions": '{"tile": 4}', "created_at": "2026-11-22T00:00:00",
        "samples_s": json.dumps([1e-3] * 10), "trace": json.dumps([["Split", [0, 1], [4, 8]]] * 40),
    }  # fmt: skip
    names = ", ".join(columns)
    insert = f"INSERT INTO trials ({names}) VALUES ({', '.join(f':{n}' for n in columns)})"
    ids = [key_id(key) for key in keys]
    rows = [
        {
            **columns,
            "id": f"{i:032x}",
            "key_id": ids[i % kernels],
            "candidate": f'{{"tile":{i}}}',
            "state": "failed" if i % 7 == 0 else "ok",
            "median_s": None if i % 7 == 0 else 1e-3 + (i * 7919 % trials) * 1e-9,
        }
        for i in range(trials)
    ]
    with database.writing() as session:
        ensure_keys(session, keys)
        session.execute(sa.text(insert), rows)
    return keys


class SummaryContract:
    """Give fixtures `db` of an empty, writable database and `tuned` of the same."""

    def test_overview(self, db: Database, artifact: Path) -> None:
        stored = db.add_artifact(artifact)
        db.add_results([measurement(stored.sha256)])
        with db.job("compile"):
            pass
        keys = fill(db, 70, kernels=5)
        shown = overview(db)
        assert json.loads(json.dumps(shown)) == shown
        big, net = shown["models"]
        assert (net["name"], net["artifacts"][0]["latest_median_ms"]) == ("net", 2.0)
        assert big["tuning"] == [{**ASKED, "tasks": 5, "trials": 70, "failed": 10}]
        assert (shown["trials"], shown["jobs"][0]["state"]) == (70, "done")
        assert shown["machines"] == {"cpu0": "test"}
        assert [m["name"] for m in overview(db, (1, 1))["models"]] == ["net"]
        assert overview(db, (1, 1))["model_count"] == 2
        kernel = find(db, "conv3", (4, 0))
        (group,) = kernel["tuning"]
        assert (kernel["kind"], group["trials"], group["states"]) == (
            "kernel", 14, {"ok": 12, "failed": 2},
        )  # fmt: skip
        times = [t["median_s"] for t in group["shown"]]
        assert len(times) == 4
        assert times == sorted(times)
        assert times[0] * 1e6 == group["best_us"]
        (next_page,) = find(db, keys[3].workload_hash, (4, 4))["tuning"]
        assert next_page["shown"][0]["median_s"] > times[-1]
        model = find(db, "big")
        assert [row["name"] for row in model["tuning"]] == [f"conv{i}" for i in range(5)]
        assert find(db, f"{5:032x}")["key"]["workload_hash"] == keys[0].workload_hash

    def test_what_cannot_be_found(self, db: Database) -> None:
        fill(db, 10, kernels=2)
        for key, message in (("", "is empty"), ("none", "is named 'none'"), ("0", "give more of")):
            with pytest.raises(InputError, match=message):
                find(db, key)

    def test_why(self, tuned: Database) -> None:
        def why(**parts: str) -> str:
            (found,) = explain(
                tuned,
                KEY.workload_hash,
                lambda workload, _: TrialKey(workload, **{**ASKED, **parts}),
            )
            assert found.to_json()["text"] == found.text
            assert found.used == found.text.startswith("a winner")
            return found.text

        assert why() == "this kernel was never tuned; run lepton-tvm tune"
        known = trial()
        tuned.tuning.add_trials([known, trial(median=None)])
        assert why().startswith("2 trials (1 failed) are stored for exactly this key but no winner")
        tuned.tuning.add_winners([Winner(KEY, known.id, known.candidate, {}, 1.5, (1.4, 1.6))])
        assert why() == "a winner is stored for exactly this key"
        assert why(schedule_version="2").startswith(
            "records differ in schedule version: stored 1, asked 2 (the schedules' code has changed"
        )
        text = why(tvm_version="0.28", hardware="cpu9")
        assert "hardware: stored cpu0, asked cpu9 (a time on one machine" in text
        assert "TVM version: stored 0.27.0, asked 0.28 (another TVM makes other code" in text
        assert "target: stored x86:avx2, asked arm:neon" in why(target="arm:neon")
        with pytest.raises(InputError, match="is named 'none'"):
            explain(tuned, "none", lambda workload, _: KEY)
