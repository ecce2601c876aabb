"""Rows that come from elsewhere: what each table may hold, checked before anything is stored."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import sqlalchemy as sa

from lepton_tvm.db.records import TrialKey, model_id
from lepton_tvm.db.tables import (
    ArtifactRow,
    Base,
    CompressedText,
    EvaluationRow,
    JobRow,
    MeasurementRow,
    ModelRow,
    SeedRow,
    TaskRow,
    TrialRow,
    TuningKeyRow,
    WinnerRow,
    WorkloadRow,
)
from lepton_tvm.db.tuning_keys import PARTS, key_id
from lepton_tvm.db.value_checks import STATES
from lepton_tvm.errors import InputError

__all__ = ["TABLES", "check_row"]

#: What is exchanged, in the order in which rows may refer to earlier ones.
TABLES: dict[str, type[Base]] = {
    row.__tablename__: row
    for row in (
        ModelRow,
        ArtifactRow,
        MeasurementRow,
        EvaluationRow,
        JobRow,
        SeedRow,
        WorkloadRow,
        TaskRow,
        TuningKeyRow,
        TrialRow,
        WinnerRow,
    )
}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_TEXT, _MAX_IR, _MAX_JSON = 1 << 20, 64 << 20, 16 << 20
_SHAPES: dict[str, type] = {
    "inputs": list,
    "outputs": list,
    "samples_s": list,
    "manifest": dict,
    "machine": dict,
    "options": dict,
    "progress": dict,
    "decisions": dict,
}


def check_row(table: str, row: dict[str, Any], where: str) -> None:
    """Raise InputError for a row that this program would not have written. `where` names it."""
    allowed = {c.key: c for c in sa.inspect(TABLES[table]).columns}
    lacking = [k for k, c in allowed.items() if not c.nullable and row.get(k) is None]
    if lacking or set(row) - set(allowed):
        raise InputError(
            f"{where} has a record of {table} with missing or unknown fields: "
            + ", ".join(lacking + sorted(set(row) - set(allowed)))
        )
    for name, value in row.items():
        problem = None if value is None else _problem(allowed[name], value)
        if problem:
            raise InputError(f"{where} has a record of {table} whose {name} {problem}")
    problem = _inconsistent(table, row)
    if problem:
        raise InputError(f"{where} has a record of {table} {problem}")


def _problem(column: Any, value: Any) -> str | None:
    kind = column.type
    if isinstance(kind, sa.JSON):
        return _json_problem(column.key, value)
    if isinstance(kind, sa.Float):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return None if is_number and math.isfinite(value) else "is not a finite number"
    if isinstance(kind, sa.Integer):
        bits = 63 if isinstance(kind, sa.BigInteger) else 31
        whole = isinstance(value, int) and not isinstance(value, bool)
        return None if whole and -(1 << bits) <= value < 1 << bits else "is not a whole number"
    if not isinstance(value, str) or "\x00" in value:
        return "is not text"
    limit = _MAX_IR if isinstance(kind, CompressedText) else getattr(kind, "length", 0) or _MAX_TEXT
    return None if len(value) <= limit else f"is longer than {limit} characters"


def _json_problem(name: str, value: Any) -> str | None:
    shape = _SHAPES.get(name)
    if shape is not None and not isinstance(value, shape):
        return f"is not a {shape.__name__}"
    try:
        size = len(json.dumps(value, allow_nan=False))
    except (ValueError, RecursionError):
        return "holds no plain JSON"
    if size > _MAX_JSON:
        return f"is larger than {_MAX_JSON >> 20} MiB"
    if name == "samples_s" and not all(_is_number(v) and v >= 0 for v in list(value)):
        return "holds values that are not seconds"
    if name == "decisions" and not all(type(v) is int for v in dict(value).values()):
        return "holds values that are not whole numbers"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _inconsistent(table: str, row: dict[str, Any]) -> str | None:
    """Ids that are hashes must be the hash of what they stand for."""
    if table == "artifacts" and not _SHA256.fullmatch(row["sha256"]):
        return "whose sha256 is not a hash"
    if table == "tuning_keys" and row["id"] != key_id(TrialKey(*(row[p] for p in PARTS))):
        return "whose id is not that of its parts"
    if table == "models":
        try:
            expected = model_id(row["source_sha256"], row["inputs"])
        except (KeyError, TypeError, ValueError):
            return "whose inputs have no name, shape and dtype"
        return None if row["id"] == expected else "whose id is not that of its source and inputs"
    if table == "trials":
        if row["state"] not in STATES or (row["state"] == "ok" and row.get("median_s") is None):
            return f"whose state {row['state'][:20]!r} does not fit"
        if any((row.get(name) or 0) < 0 for name in ("median_s", "reference_s")):
            return "whose times are negative"
    if table == "winners" and row["ratio"] <= 0:
        return "whose ratio is not positive"
    return None
