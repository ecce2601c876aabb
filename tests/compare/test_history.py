"""Stored comparisons stay apart by machine, target and number of threads."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from lepton_tvm.compare import Comparison, compare, history
from lepton_tvm.db import Database, Measurement
from lepton_tvm.errors import InputError
from lepton_tvm.measure import Rounds, this_machine
from lepton_tvm.measure import loaded_artifacts as artifacts
from tests.support.command_line import Lepton

QUICK = Rounds(least=3, most=3, budget_s=0.01, warmup_s=0)
X = np.random.default_rng(2).standard_normal((6, 8)).astype("float32")


def on(name: str, db: Database, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Comparison:
    """A comparison by a machine that calls its CPU so."""
    machine = dataclasses.replace(this_machine(), cpu=name)
    monkeypatch.setattr(artifacts, "this_machine", lambda: machine)
    return compare(db=db, rounds=QUICK, **options)


def test_each_machine_has_its_own_and_the_newest_counts(
    db: Database, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(), add("int8", 1.1)
    on("A", db, monkeypatch)
    b = on("B", db, monkeypatch, data={"x": X})
    a = on("A", db, monkeypatch)
    two = on("A", db, monkeypatch, threads=2)
    found = history("toy", db=db)
    assert {c.run_id for c in found.comparisons} == {a.run_id, b.run_id, two.run_id}
    by_run = {c.run_id: c for c in found.comparisons}
    for made in (a, b, two):
        assert by_run[made.run_id].to_json() == made.to_json()
    text = str(found)
    assert text.index("toy on A") < text.rindex("toy on A")
    assert "toy on B" in text


def test_a_run_without_a_baseline_or_with_another_machine_s_samples_is_not_shown(
    db: Database, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, other = add(), add("int8", 1.1)
    made = on("A", db, monkeypatch)
    machine = dataclasses.replace(this_machine(), cpu="B")
    foreign = Measurement(
        run_id=made.run_id,
        artifact_sha256=other,
        hardware=machine.fingerprint,
        machine=machine.to_json(),
        threads=1,
        median_s=1e-9,
        samples_s=[1e-9] * 3,
    )
    alone = dataclasses.replace(foreign, run_id="alone", id="0" * 32)
    db.add_results([foreign, alone])
    (only,) = history(db=db).comparisons
    assert only.to_json() == made.to_json()


def test_the_command_shows_all_machines(
    db: Database, add: Any, monkeypatch: pytest.MonkeyPatch, lepton: Lepton
) -> None:
    assert add()
    nothing = lepton("compare", "--history", "--db", db.url)
    assert "no comparison of toy is stored" in nothing.out
    on("Machine A", db, monkeypatch)
    on("Machine B", db, monkeypatch)
    shown = lepton("compare", "--history", "--db", db.url, "--json")
    assert shown.code == 0
    machines = json.loads(shown.out)["machines"]
    assert sorted(m["machine"]["cpu"] for m in machines) == ["Machine A", "Machine B"]
    assert {m["threads"] for m in machines} == {1}
    listed = lepton("db", "list", "--db", db.url).out
    assert "Machine A" in listed
    assert "Machine B" in listed


def test_the_old_option_for_the_model_works_with_a_warning(
    db: Database, add: Any, lepton: Lepton
) -> None:
    add()
    new = lepton("compare", "toy", "--history", "--db", db.url)
    old = lepton("compare", "--model", "toy", "--history", "--db", db.url)
    assert (old.code, old.out) == (new.code, new.out) == (0, new.out)
    assert "warning" not in new.err
    assert "warning: --model is an old spelling: write `lepton-tvm compare MODEL`" in old.err
    both = lepton("compare", "toy", "--model", "car", "--db", db.url)
    assert both.code == 2
    assert "compare takes one model, found 'toy' and --model 'car'" in both.err


def test_the_command_takes_a_target(db: Database, add: Any, lepton: Lepton) -> None:
    add()
    ended = lepton("compare", "toy", "--target", "x86:none", "--db", db.url)
    assert ended.code == 2
    assert "no artifact for target 'x86:none'" in ended.err
    refused = lepton("compare", "--history", "--target", "x86:none", "--db", db.url)
    assert refused.code == 2
    assert "--history shows all targets: leave --target out" in refused.err


def test_a_model_that_is_not_there_is_told(db: Database, add: Any) -> None:
    add()
    with pytest.raises(InputError, match="no model 'car'"):
        history("car", db=db)
