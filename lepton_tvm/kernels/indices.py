"""Arithmetic of indices that several loop nests do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["unflatten"]


def unflatten(flat: Any, extents: Sequence[int]) -> list[Any]:
    """An index into each of `extents` for position `flat` of all, the last one running fastest.

    The first index is not bounded. Without `extents` there is none.
    """
    parts = []
    for extent in reversed(extents[1:]):
        parts.append(flat % extent)
        flat = flat // extent
    return [*([flat] if extents else []), *reversed(parts)]
