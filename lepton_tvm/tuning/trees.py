"""Regression trees as plain arrays: what XGBoost learned, in a form that is safe to read back.

XGBoost's own loader trusts its input (bytes that are no model crash the process), and a database
may come from anybody. So trees are kept as numbers, checked when read, and walked here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_tvm.ir.graph import Array

__all__ = ["Trees"]

_MOST_BYTES = 64 << 20
_COLUMNS = ("feature", "threshold", "low", "high", "missing", "value")


@dataclass(frozen=True)
class Trees:
    """All nodes of all trees in one table; `roots` are the rows of the trees' first nodes.

    A leaf has `feature` -1 and a `value`; another node sends a row on to `low` where its feature is
    below the `threshold`, else to `high`, and to `missing` where it is NaN. Children stand behind
    their parents, so every walk ends. `width` is the number of features.
    """

    width: int
    roots: Array
    feature: Array
    threshold: Array
    low: Array
    high: Array
    missing: Array
    value: Array

    @classmethod
    def from_dump(cls, trees: Sequence[str], width: int) -> Trees:
        """Of XGBoost's `get_dump(dump_format="json")`, features named f0, f1, ..."""
        rows: list[list[float]] = []
        roots = [_add(json.loads(tree), rows) for tree in trees]
        return cls._of(width, roots, [list(column) for column in zip(*rows, strict=True)])

    def predict(self, rows: Sequence[Sequence[float]] | Array) -> Array:
        """The sum over all trees, for each row of features."""
        x = np.asarray(rows, np.float32).reshape(-1, self.width)
        lines = np.arange(len(x))
        total = np.zeros(len(x), np.float32)
        for root in self.roots:
            at = np.full(len(x), root)
            while True:
                feature = self.feature[at]
                inner = feature >= 0
                if not inner.any():
                    break
                found = x[lines, np.maximum(feature, 0)]
                below = np.where(found < self.threshold[at], self.low[at], self.high[at])
                step = np.where(np.isnan(found), self.missing[at], below)
                at = np.where(inner, step, at)
            total += self.value[at]
        return total

    def to_bytes(self) -> bytes:
        """JSON that `from_bytes` reads."""
        columns = {name: getattr(self, name).tolist() for name in _COLUMNS}
        made = {"width": self.width, "roots": self.roots.tolist(), **columns}
        return json.dumps(made, allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Trees | None:
        """What `to_bytes` gave; None for anything else."""
        try:
            if len(data) > _MOST_BYTES:
                return None
            found = json.loads(data)
            made = cls._of(int(found["width"]), found["roots"], [found[n] for n in _COLUMNS])
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
            return None
        return made if made._is_sound() else None

    @classmethod
    def _of(cls, width: int, roots: Sequence[int], columns: Sequence[Sequence[Any]]) -> Trees:
        feature, threshold, low, high, missing, value = columns
        return cls(
            width,
            np.asarray(roots, np.int64),
            np.asarray(feature, np.int64),
            np.asarray(threshold, np.float32),
            np.asarray(low, np.int64),
            np.asarray(high, np.int64),
            np.asarray(missing, np.int64),
            np.asarray(value, np.float32),
        )

    def _is_sound(self) -> bool:
        count = len(self.feature)
        columns = [getattr(self, name) for name in _COLUMNS]
        if any(c.ndim != 1 or len(c) != count for c in columns) or self.roots.ndim != 1:
            return False
        own = np.arange(count)
        inner = self.feature >= 0
        children = (self.low, self.high, self.missing)
        return bool(
            (self.feature < self.width).all()
            and ((self.roots >= 0) & (self.roots < count)).all()
            and all(((c > own) & (c < count))[inner].all() for c in children)
            and np.isfinite(self.threshold).all()
            and np.isfinite(self.value).all()
        )


def _add(node: dict[str, Any], rows: list[list[float]]) -> int:
    """Put a node and what is below it into the table; its row."""
    own = len(rows)
    if "leaf" in node:
        rows.append([-1, 0.0, own, own, own, float(node["leaf"])])
        return own
    rows.append([])
    at = {child["nodeid"]: _add(child, rows) for child in node["children"]}
    feature = int(str(node["split"]).removeprefix("f"))
    threshold = float(node["split_condition"])
    low, high, missing = (at[node[name]] for name in ("yes", "no", "missing"))
    rows[own] = [feature, threshold, low, high, missing, 0.0]
    return own
