"""With 100,000 trials: what `db list`, `db show` and `db why` read, and how they find it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from lepton_tvm.db import Database, TrialKey
from lepton_tvm.db.views.find_record import find
from lepton_tvm.db.views.overview import overview
from lepton_tvm.db.views.why import explain
from tests.db.summary_contract import ASKED, fill


@pytest.fixture
def statements(db: Database) -> Iterator[list[str]]:
    """What is sent to the database."""
    sent: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        sent.append(statement)

    sa.event.listen(db._engine, "before_cursor_execute", note)
    yield sent
    sa.event.remove(db._engine, "before_cursor_execute", note)


def steps(database: Database, statement: str) -> list[str]:
    """How SQLite would answer a statement."""
    nothing = (None,) * statement.count("?")
    with database.reading() as session:
        connection = session.connection()
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", nothing)
        return [row[3] for row in rows]


def test_trials_are_counted_and_found_by_indexes(db: Database, statements: list[str]) -> None:
    fill(db, 100_000)
    del statements[:]
    assert overview(db, (20, 0))["trials"] == 100_000
    assert len(statements) < 20
    assert len(find(db, "conv7", (20, 0))["tuning"][0]["shown"]) == 20
    assert find(db, f"{77:032x}")["candidate"] == '{"tile":77}'
    assert len(find(db, "big", (20, 0))["tuning"]) == 50
    assert len(explain(db, "big", lambda h, _: TrialKey(h, **ASKED))) == 50
    assert len(statements) < 60  # and none for each of 50 kernels
    asked = {s for s in statements if "FROM trials" in s}
    assert len(asked) >= 4
    for statement in asked:
        for step in steps(db, statement):
            is_row_by_row = step.startswith("SCAN trials") and "COVERING INDEX" not in step
            assert not is_row_by_row, f"{statement}: {step}"
