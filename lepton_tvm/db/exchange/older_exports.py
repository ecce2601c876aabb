"""Bringing the rows of an export of an older schema to what the tables hold now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lepton_tvm.db.records import TrialKey
from lepton_tvm.db.tuning_keys import PARTS, key_id

__all__ = ["upgraded"]


def upgraded(entries: Iterable[Any]) -> list[Any]:
    """Entries as today's schema has them; what is not understood stays, to be refused later."""
    found: list[Any] = []
    for entry in entries:
        row = entry.get("row") if isinstance(entry, dict) else None
        if isinstance(row, dict) and entry.get("table") == "trials" and set(PARTS) <= set(row):
            found += _split(dict(row))
        else:
            found.append(entry)
    return found


def _split(trial: dict[str, Any]) -> list[dict[str, Any]]:
    """Until schema 0002 a trial held its key's parts and had no candidate."""
    parts = {name: trial.pop(name) for name in PARTS}
    key = key_id(TrialKey(**parts))
    candidate = f"0002:{trial.get('id')}"
    return [
        {"table": "tuning_keys", "row": {"id": key, **parts}},
        {"table": "trials", "row": {**trial, "key_id": key, "candidate": candidate}},
    ]
