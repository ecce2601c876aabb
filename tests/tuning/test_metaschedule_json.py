"""The files of TVM's own tuner: written, read, and refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import tvm
from tvm.s_tir.meta_schedule.database import JSONDatabase

from lepton_tvm.db import Database, open_database
from lepton_tvm.errors import InputError
from lepton_tvm.tuning.metaschedule import LeptonDatabase, workload_hash
from lepton_tvm.tuning.metaschedule_json import (
    RECORDS,
    WORKLOADS,
    export_metaschedule,
    import_metaschedule,
)
from lepton_tvm.tuning.traces import KINDS, check_trace
from tests.support.command_line import Lepton
from tests.support.scale import TARGET, Scale, fill, scheduled


def test_to_metaschedules_files_and_back(db: Database, tmp_path: Path) -> None:
    fill(LeptonDatabase(db, TARGET, "cpu0"), {4: 4e-3, 16: 1e-3})
    fill(LeptonDatabase(db, TARGET, "cpu1"), {8: 1e-9})
    folder = tmp_path / "out"
    report = export_metaschedule(db, folder, hardware="cpu0")
    assert (report.workloads, report.records, report.skipped) == (1, 2, ())
    stock = JSONDatabase(str(folder / WORKLOADS), str(folder / RECORDS), allow_missing=False)
    tvm.ir.assert_structural_equal(stock.query_ir_module(Scale, TARGET, "main"), scheduled(16).mod)
    with open_database(str(tmp_path / "copy.db")) as copy:
        assert import_metaschedule(copy, folder, hardware="cpu0").records == 2
        again = import_metaschedule(copy, folder, hardware="cpu0")
        assert (again.records, again.skipped) == (0, ("2 records: here already",))
        (key,) = db.tuning.keys(hardware="cpu0")
        there, here = (
            sorted(found._replace(id="") for found in database.tuning.finished([key])[key])
            for database in (copy, db)
        )
        assert there == here
    with pytest.raises(InputError, match="exists already; give another folder"):
        export_metaschedule(db, folder)


def test_files_that_tvm_wrote(db: Database, tmp_path: Path, lepton: Lepton) -> None:
    folder = tmp_path / "stock"
    folder.mkdir()
    fill(JSONDatabase(work_dir=str(folder)), {4: 4e-3, 8: 1e10})
    db.close()
    command = ("db", "import", folder, "--metaschedule", "--db", tmp_path / "lepton.db")
    said = lepton(*command, "--hardware", "board").out
    assert "2 records of 1 kernels from" in said
    assert "taken as times of machine board" in said
    with open_database(str(tmp_path / "lepton.db")) as database:
        (key,) = database.tuning.keys()
        assert (key.hardware, key.workload_hash) == ("board", workload_hash(Scale))
        assert [t.state for t in database.tuning.trials(key)] == ["ok", "failed"]
        found = LeptonDatabase(database, TARGET, "board").query_ir_module(Scale, TARGET, "main")
        tvm.ir.assert_structural_equal(found, scheduled(4).mod)
    out = lepton(
        "db", "export", tmp_path / "back", "--metaschedule", "--hardware", "board",
        "--db", tmp_path / "lepton.db", "--json",
    ).json  # fmt: skip
    assert (out["records"], out["skipped"]) == (1, ["1 records: they did not run"])
    wrong = lepton("db", "export", "x.zip", "--hardware", "board", "--db", tmp_path / "lepton.db")
    assert (wrong.code, wrong.out) == (2, "")


def rewritten(folder: Path, kernel: Any = None, record: Any = None) -> Path:
    """A stock database with one line of each file, changed by a function."""
    folder.mkdir()
    fill(JSONDatabase(work_dir=str(folder)), {4: 4e-3})
    for name, change in ((WORKLOADS, kernel), (RECORDS, record)):
        if change is not None:
            line = json.loads((folder / name).read_text())
            changed = change(line)
            text = changed if isinstance(changed, str) else json.dumps(changed)
            (folder / name).write_text(text + "\n")
    return folder


def changed_trace(instruction: Any) -> Any:
    def change(line: Any) -> Any:
        line[1][0][0].append(instruction)
        return line

    return change


def decided(decision: Any) -> Any:
    def change(line: Any) -> Any:
        line[1][0][1] = [decision]
        return line

    return change


@pytest.fixture(autouse=True)
def no_process_of_its_own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting one for each of these small files would take longer than the tests."""
    if "elsewhere" not in request.node.name:
        monkeypatch.setattr("lepton_tvm.tuning.metaschedule_json._try_elsewhere", lambda _: None)


def test_files_are_read_elsewhere_first_so_that_a_crash_of_tvms_reader_is_told(
    db: Database, tmp_path: Path
) -> None:
    def endless(line: Any) -> Any:
        """The kernel's root holds itself."""
        graph = json.loads(base64.b64decode(line[1])[8:])
        root = graph["nodes"][graph["root_index"]]
        root["data"] = {name: graph["root_index"] for name in root["data"]}
        text = json.dumps(graph).encode()
        return [line[0], base64.b64encode(len(text).to_bytes(8, "little") + text).decode()]

    assert import_metaschedule(db, rewritten(tmp_path / "good")).records == 1
    before = db.tuning.count()
    with pytest.raises(
        InputError, match=r"TVM's reader crashes on these files \(killed by SIGSEGV"
    ):
        import_metaschedule(db, rewritten(tmp_path / "bad", endless))
    assert db.tuning.count() == before


@pytest.mark.parametrize(
    ("kernel", "record", "message"),
    [
        (lambda line: "{", None, "cannot be read"),
        (lambda line: "[" * 100_000, None, "cannot be read"),
        (lambda line: [line[0], "no base64!"], None, "line 1 is not a kernel of MetaSchedule"),
        (lambda line: [line[0], "bnVsbA=="], None, "line 1 is not a kernel of MetaSchedule"),
        (lambda line: {"a": 1}, None, "line 1 is not a kernel of MetaSchedule"),
        (None, lambda line: [7, line[1]], "names kernel 7 of 1"),
        (None, lambda line: [-1, line[1]], "names kernel -1 of 1"),
        (None, lambda line: [0, line[1][:3]], "line 1 is not a record of MetaSchedule"),
        (None, lambda line: "[0, [[[], []], [NaN], null, null]]", "NaN is not a number"),
    ],
)
def test_files_that_are_not_metaschedules(
    db: Database, tmp_path: Path, kernel: Any, record: Any, message: str
) -> None:
    folder = rewritten(tmp_path / "bad", kernel, record)
    with pytest.raises(InputError, match=message):
        import_metaschedule(db, folder)
    assert db.tuning.count() == {"workloads": 0, "trials": 0, "claims": 0}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (changed_trace(["UnsafeSetDType", [], [], []]), "instruction 'UnsafeSetDType' is not rep"),
        (changed_trace(["System", [], ["rm"], []]), "instruction 'System' is not replayed"),
        (
            changed_trace(["Annotate", ["b0", '"void f();"'], ["pragma_import_c"], []]),
            "annotates source code",
        ),
        (changed_trace(["GetLoops", ["b9"], [], ["l9"]]), "does not fit its kernel"),
        (decided([99999, 1]), "the number of an instruction"),
        (decided([-1, 1]), "the number of an instruction"),
        (decided([True, 1]), "the number of an instruction"),
        (decided([0, 1]), "a decision that no instruction asks for"),
        (lambda line: [0, [line[1][0], [1.0] * 20_000, *line[1][2:]]], "10000 at most"),
        (lambda line: [0, [line[1][0], [1.0], None, None]], "names no target"),
        (lambda line: [0, [line[1][0], ["x"], line[1][2], None]], "times are not numbers"),
    ],
)
def test_records_that_are_left_out(db: Database, tmp_path: Path, record: Any, message: str) -> None:
    report = import_metaschedule(db, rewritten(tmp_path / "bad", record=record))
    assert report.records == 0
    assert message in report.skipped[0]
    assert db.tuning.count()["trials"] == 0


def test_records_of_another_tvm_are_left_out(db: Database, tmp_path: Path) -> None:
    def older(line: Any) -> Any:
        text = base64.b64decode(line[1])[8:].replace(tvm.__version__.encode(), b"0.1.0")
        return [line[0], base64.b64encode(len(text).to_bytes(8, "little") + text).decode()]

    report = import_metaschedule(db, rewritten(tmp_path / "old", kernel=older))
    assert report.records == 0
    assert report.skipped[0].startswith("1 records: made with TVM 0.1.0, installed is ")


def test_every_allowed_instruction_is_known_to_tvm() -> None:
    from tvm.s_tir.schedule import InstructionKind

    assert all(InstructionKind.get(kind) is not None for kind in KINDS)
    check_trace([[], []])
