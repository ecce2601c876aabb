"""Comparing stored artifacts: what is run, shown and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_tvm.compare
from lepton_tvm.compare import Comparison, compare
from lepton_tvm.db import Database
from lepton_tvm.errors import ArtifactError, DatabaseError, InputError, RequirementError
from lepton_tvm.measure import Rounds
from tests.support import toy_artifact as toy

QUICK = Rounds(least=3, most=3, budget_s=0.01, warmup_s=0)
X = np.random.default_rng(2).standard_normal((20, 8)).astype("float32")
LABELS = (X @ toy.WEIGHT).argmax(1)
VARIANT_KEYS = {
    "name",
    "artifact",
    "sha256",
    "size_bytes",
    "precision",
    "isa",
    "threads",
    "latency_ms",
    "speedup",
    "accuracy",
    "agreement",
    "sqnr_db",
}


def test_float_and_variants_with_data(db: Database, add: Any) -> None:
    base, other = add(), add("int8", 1.1)
    data = {"x": X, "label": LABELS}
    found = compare("toy", db=db, data=data, rounds=QUICK)
    assert found.baseline.artifact.sha256 == base
    (variant,) = found.variants
    assert variant.artifact.sha256 == other
    assert variant.quality is not None
    assert variant.quality.agreement == 1.0
    # outputs are 1.1 times as large: noise is a tenth of the signal, 20 dB
    assert variant.quality.sqnr_db == pytest.approx(20, abs=1e-3)
    assert found.baseline.quality is not None
    assert found.baseline.quality.accuracy == variant.quality.accuracy
    assert found.baseline.quality.n == 20
    _check_shape(found, measured=True)


def test_everything_is_stored(db: Database, add: Any) -> None:
    base, other = add(), add("int8", 1.1)
    found = compare(db=db, data={"x": X}, rounds=QUICK)
    timed = db.measurements(run_id=found.run_id)
    assert {m.artifact_sha256 for m in timed} == {base, other}
    assert all(len(m.samples_s) == 3 and m.threads == 1 for m in timed)
    assert {m.hardware for m in timed} == {found.machine.fingerprint}
    judged = {e.artifact_sha256: e for e in db.evaluations(run_id=found.run_id)}
    assert (judged[base].baseline_sha256, judged[other].baseline_sha256) == (None, base)
    assert judged[other].metric is None
    assert judged[other].n == 20
    (job,) = db.jobs(kind="compare")
    assert (job.state, job.seeds) == ("done", {"compare": 0})


def test_without_data_nothing_is_invented(db: Database, add: Any) -> None:
    add()
    add("int8", 1.1)
    found = compare(db=db, rounds=QUICK)
    _check_shape(found, measured=False)
    assert db.evaluations() == []


def _check_shape(found: Comparison, measured: bool) -> None:
    shown = json.loads(json.dumps(found.to_json()))
    assert set(shown) == {"machine", "db", "model", "baseline", "variants"}
    for v in (shown["baseline"], *shown["variants"]):
        assert set(v) == VARIANT_KEYS
        assert set(v["latency_ms"]) == {"median", "ci95", "samples"}
        low, high = v["latency_ms"]["ci95"]
        assert low <= v["latency_ms"]["median"] <= high
    base, variant = shown["baseline"], shown["variants"][0]
    assert base["speedup"] is base["agreement"] is base["sqnr_db"] is None
    assert set(variant["speedup"]) == {"ratio", "ci95"}
    assert (variant["accuracy"] is not None) == measured
    assert (variant["sqnr_db"] is not None) == measured


def test_table_and_report(db: Database, add: Any) -> None:
    add()
    add("int8", 1.1)
    old = add("pruned + int8", 1.2)
    add("pruned + int8", 1.3)
    add("int8", 1.4, target="x86:other")
    add("int8", 1.5, cpu_features=["warp"])
    found = compare(db=db, rounds=QUICK, target="x86:avx2")
    text = str(found)
    assert "float32" in text
    assert "pruned + int8" in text
    left_out = [n for n in found.report if n.startswith("not compared")]
    assert len(left_out) == 3
    assert any(old[:12] in n and "a newer one is stored" in n for n in left_out)
    assert any("for target x86:other" in n for n in left_out)
    assert any("this CPU lacks warp" in n for n in left_out)


def test_slower_and_worse_variants_say_so(db: Database, add: Any) -> None:
    import dataclasses

    from lepton_tvm.measure import Estimate, Quality

    add()
    add("int8", 1.1)
    found = compare(db=db, data={"x": X, "label": LABELS}, rounds=QUICK)
    bad = dataclasses.replace(
        found.variants[0],
        speedup=Estimate(0.5, 0.4, 0.6),
        quality=Quality(20, "top1", 0.0, 0.5, 3.0),
    )
    report = dataclasses.replace(found, variants=(bad,)).report
    assert "int8 is SLOWER than float: 0.50x [0.40, 0.60]" in report
    assert any(n.startswith("int8 is WORSE than float") for n in report)
    unsure = dataclasses.replace(bad, speedup=Estimate(1.1, 0.9, 1.2))
    report = dataclasses.replace(found, variants=(unsure,)).report
    assert any("not measurably faster" in n for n in report)


def test_required_speed(db: Database, add: Any) -> None:
    add()
    add("int8", 1.1)
    with pytest.raises(RequirementError, match=r"required speed-up over float 1e\+06x was not met"):
        compare(db=db, rounds=QUICK, fail_if_slower=1e6)
    assert len(db.measurements()) == 2
    with pytest.raises(InputError, match="fail_if_slower must be above 0"):
        compare(db=db, fail_if_slower=0)


def test_what_cannot_be_compared(db: Database, add: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the database is empty: compile a model"):
        compare(db=db)
    add("int8")
    with pytest.raises(InputError, match=r"no float baseline of model 'toy' .* \(stored: int8\)"):
        compare(db=db)
    add()
    with pytest.raises(InputError, match=r"no model 'other' in .*; stored are toy"):
        compare("other", db=db)
    with pytest.raises(InputError, match=r"no artifact for target 'arm'.*; stored: x86:avx2"):
        compare("toy", db=db, target="arm")
    add(source_sha256="6" * 64, name="another")
    with pytest.raises(InputError, match="several models: name one; stored are another, toy"):
        compare(db=db)
    with pytest.raises(InputError, match="missing: x; unknown: z"):
        compare("toy", db=db, data=[{"z": X[:2]}], rounds=QUICK)
    assert [j.state for j in db.jobs()] == ["failed"]


def test_a_generator_is_read_once(db: Database, add: Any) -> None:
    add()
    found = compare(db=db, data=({"x": X[i : i + 2]} for i in range(0, 20, 2)), rounds=QUICK)
    assert found.baseline.quality is not None
    assert found.baseline.quality.n == 20


def test_damaged_artifact_is_not_loaded(db: Database, add: Any) -> None:
    sha = add()
    path = db.artifact_path(sha)
    path.write_bytes(path.read_bytes().replace(b"main", b"mayn"))
    with pytest.raises(ArtifactError, match="it was not loaded"):
        compare(db=db, rounds=QUICK)
    assert db.measurements() == []


def test_read_only_database_fails_before_the_work(db: Database, add: Any, tmp_path: Path) -> None:
    add()
    db.close()
    (tmp_path / "lepton.db").chmod(0o444)
    with pytest.raises(DatabaseError, match="is read-only"):
        compare(db=str(tmp_path / "lepton.db"), rounds=QUICK)


def test_module_is_the_function_too(db: Database, add: Any) -> None:
    add()
    found = lepton_tvm.compare(db=db, rounds=QUICK)  # type: ignore[operator]
    assert found.report == ("only the float baseline is stored; compile a variant to compare it",)
