"""Export, import and clearing."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from pathlib import Path

import pytest

from lepton_tvm.db import Database, Winner, open_database
from lepton_tvm.db.exchange import archive as transfer
from lepton_tvm.db.gc import gc
from lepton_tvm.errors import DatabaseError, InputError
from tests.db.contract import measurement, trial
from tests.db.workers import KEY


@pytest.fixture
def filled(db: Database, artifact: Path) -> Database:
    stored = db.add_artifact(artifact)
    db.add_results([measurement(stored.sha256)])
    with db.job("compile", seeds={"s": 1}):
        pass
    db.tuning.add_workload(KEY.workload_hash, "conv", "IR")
    db.tuning.add_trials([trial()])
    return db


def rewrite(path: Path, **members: str | bytes | None) -> Path:
    """The zip with members replaced, added, or (None) left out; `__` in names stands for `/`."""
    changed = {
        name.replace("__", "/").replace("_json", ".json", 1): v for name, v in members.items()
    }
    out = path.with_name("changed.zip")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if name not in changed:
                new.writestr(name, old.read(name))
        for name, content in changed.items():
            if content is not None:
                new.writestr(name, content)
    return out


def test_round_trip(filled: Database, tmp_path: Path) -> None:
    report = transfer.export_records(filled, tmp_path / "e.zip")
    assert (report.artifacts, report.skipped) == (1, ())
    with open_database(str(tmp_path / "copy.db")) as copy:
        assert transfer.import_records(copy, tmp_path / "e.zip").rows == report.rows
        assert transfer.import_records(copy, tmp_path / "e.zip").rows == 0
        assert copy.models() == filled.models()
        assert copy.artifacts() == filled.artifacts()
        assert copy.measurements() == filled.measurements()
        assert copy.jobs() == filled.jobs()
        assert copy.tuning.trials(KEY) == filled.tuning.trials(KEY)
        copy.artifact_path(copy.artifacts()[0])


def test_exports_of_schema_0002_are_read(filled: Database, tmp_path: Path) -> None:
    transfer.export_records(filled, tmp_path / "e.zip")
    old = {
        **{"id": "9" * 32, **dataclasses.asdict(KEY), "state": "ok", "trace": [], "error": None},
        **{"samples_s": [2.0], "median_s": 2.0, "job_id": None, "created_at": "2026-11-22"},
    }
    work = {"hash": KEY.workload_hash, "name": "conv", "ir": "IR", "created_at": "2026-11-22"}
    lines = [{"table": "workloads", "row": work}, {"table": "trials", "row": old}]
    about = {"format": "lepton_tvm export", "schema": "0002"}
    changed = rewrite(
        tmp_path / "e.zip",
        about_json=json.dumps(about),
        records_jsonl="\n".join(map(json.dumps, lines)),
    )
    with open_database(str(tmp_path / "copy.db")) as copy:
        transfer.import_records(copy, changed)
        (found,) = copy.tuning.trials(KEY)
        assert (found.median_s, found.id, found.decisions) == (2.0, "9" * 32, None)


def test_what_was_tried_in_both_places_stays_once(filled: Database, tmp_path: Path) -> None:
    (here,) = filled.tuning.trials(KEY)
    there = dataclasses.replace(here, id="e" * 32, median_s=9e-3)
    with open_database(str(tmp_path / "other.db")) as other:
        other.tuning.add_workload(KEY.workload_hash, "conv", "IR")
        other.tuning.add_trials([there])
        won = Winner(KEY, there.id, there.candidate, there.decisions, 1.2, (1.1, 1.3))
        other.tuning.add_winners([won])
        transfer.export_records(other, tmp_path / "e.zip")
    transfer.import_records(filled, tmp_path / "e.zip")
    assert filled.tuning.trials(KEY) == [here]
    assert filled.tuning.winner(KEY) == dataclasses.replace(won, trial_id=here.id)


def test_export_leaves_out_what_is_damaged_and_says_so(filled: Database, tmp_path: Path) -> None:
    filled.artifact_path(filled.artifacts()[0]).write_bytes(b"x")
    report = transfer.export_records(filled, tmp_path / "e.zip")
    assert report.artifacts == 0
    assert "is damaged" in report.skipped[0]
    with open_database(str(tmp_path / "copy.db")) as copy:
        assert "not in the export" in transfer.import_records(copy, tmp_path / "e.zip").skipped[0]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"..__evil": "x"}, r"holds '\.\./evil'"),
        ({f"artifacts__{'0' * 64}.so": "x"}, "does not match its sha256"),
        ({"about_json": "{}"}, "is not an export"),
        ({"about_json": json.dumps({"format": "lepton_tvm export", "schema": "9"})}, "upgrade"),
        ({"about_json": "{"}, "cannot be read"),
        ({"records_jsonl": None}, "lacks its records"),
        ({"records_jsonl": '{"table": "alembic_version", "row": {}}'}, "unknown kind"),
        ({"records_jsonl": '{"table": "models", "row": {"id": "1"}}'}, "missing or unknown fields"),
        ({"records_jsonl": "[1]"}, "unknown kind: None"),
    ],
)
def test_exports_that_are_not_trusted(
    filled: Database, tmp_path: Path, members: dict[str, str | None], message: str
) -> None:
    transfer.export_records(filled, tmp_path / "e.zip")
    bad = rewrite(tmp_path / "e.zip", **members)
    with open_database(str(tmp_path / "copy.db")) as copy:
        with pytest.raises(InputError, match=message):
            transfer.import_records(copy, bad)
        assert copy.models() == []
        assert not list(copy.blobs.stored())


def test_files_that_are_no_export(db: Database, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        transfer.import_records(db, tmp_path / "none.zip")
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(InputError, match="cannot be read: File is not a zip file"):
        transfer.import_records(db, tmp_path / "text.zip")
    with pytest.raises(DatabaseError, match="cannot write export"):
        transfer.export_records(db, tmp_path / "none" / "e.zip")


def test_gc_removes_only_what_nothing_names(filled: Database) -> None:
    folder = filled.blobs.folder / "ee"
    folder.mkdir()
    orphan, leftover = folder / f"{'e' * 64}.so", folder / ".x.so.1.tmp"
    for path in (orphan, leftover):
        path.write_bytes(b"12345")
    assert gc(filled).removed == ()
    for path in (orphan, leftover):
        os.utime(path, (0, 0))
    assert gc(filled, dry_run=True).freed_bytes == 10
    assert orphan.exists()
    report = gc(filled)
    assert report.removed == (orphan.name, leftover.name)
    assert not orphan.exists()
    assert report.damaged == ()
    filled.artifact_path(filled.artifacts()[0]).write_bytes(b"x")
    assert "is damaged" in gc(filled).damaged[0]


@pytest.mark.parametrize("harm", ["deep", "damaged", "encrypted", "packed otherwise"])
def test_exports_that_cannot_be_unpacked_are_told(
    filled: Database, tmp_path: Path, harm: str
) -> None:
    path = tmp_path / "e.zip"
    if harm == "deep":
        transfer.export_records(filled, path)
        path = rewrite(path, about_json="[" * 100_000)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("about.json", "{}" * 1000)
            archive.writestr("records.jsonl", "")
        data = bytearray(path.read_bytes())
        central = data.index(b"PK\x01\x02")
        if harm == "damaged":
            data[40:48] = b"\xff" * 8
        elif harm == "encrypted":
            data[6] |= 1
            data[central + 8] |= 1
        else:
            data[8], data[central + 10] = 97, 97
        path.write_bytes(bytes(data))
    with open_database(str(tmp_path / "copy.db")) as copy:
        with pytest.raises(InputError, match="cannot be read"):
            transfer.import_records(copy, path)
        assert copy.tuning.count()["trials"] == 0
