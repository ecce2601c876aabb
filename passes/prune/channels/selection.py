"""Which channels of which groups go: ratio, rounding to widths that the hardware likes, reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.errors import InputError
from lepton_tvm.passes.prune.channels.groups import Group
from lepton_tvm.passes.prune.channels.labels import Ints

__all__ = ["SCOPES", "Decision", "Scores", "select"]

SCOPES = ("group", "global")
FLOOR = 0.25
"""Share of every group that ranking all groups together takes last, so that none dries up."""
Scores = Mapping[str, npt.NDArray[np.float64]]
"""Group name -> one importance per atom."""


@dataclass(frozen=True)
class Decision:
    """What becomes of one group: the atoms that go, or the reason why none does."""

    group: Group
    removed: Ints
    reason: str | None = None

    @property
    def kept_channels(self) -> int:
        """Channels left in the widest maker."""
        return self.group.channels - int(self.removed.size) * max(self.group.copies)

    def to_json(self) -> dict[str, Any]:
        """Makers, width before and after, reason when untouched."""
        return {
            "layers": list(self.group.makers),
            "channels": self.group.channels,
            "kept": self.kept_channels,
            "removed": self.group.channels - self.kept_channels,
            "reason": self.reason,
        }


def select(
    groups: Sequence[Group], scores: Scores, *, ratio: float, round_to: int, scope: str
) -> tuple[Decision, ...]:
    """Decide on every group, the least important channels first, ties to the higher index.

    `scope="group"` removes `ratio` of every group; `"global"` ranks the channels of all groups
    together and removes `ratio` of all that may go, `FLOOR` of every group last. The number kept is
    then the nearest multiple of `round_to` (never 0, ties keep more), since a width that does not
    fit the vectors costs as much as the next one that does.
    """
    if scope not in SCOPES:
        raise InputError(f"unknown pruning scope '{scope}'; known: {', '.join(SCOPES)}")
    open_groups = [g for g in groups if g.reason is None]
    wanted = (
        {g.name: g.roots.size * ratio for g in open_groups}
        if scope == "group"
        else _global_share(open_groups, scores, ratio)
    )
    return tuple(_decide(g, scores, wanted.get(g.name, 0.0), round_to) for g in groups)


def _global_share(groups: Sequence[Group], scores: Scores, ratio: float) -> dict[str, float]:
    """Atoms to remove per group when all are ranked together, `FLOOR` of each group last."""
    if not groups:
        return {}
    owner = np.concatenate([np.full(g.roots.size, i) for i, g in enumerate(groups)])
    cost = np.concatenate([np.full(g.roots.size, max(g.copies)) for g in groups])
    order = np.argsort(np.concatenate([_with_floor(scores[g.name]) for g in groups]), kind="stable")
    removed = order[np.cumsum(cost[order]) <= ratio * cost.sum()]
    return {g.name: float((owner[removed] == i).sum()) for i, g in enumerate(groups)}


def _with_floor(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The scores with the best `FLOOR` of them out of reach."""
    count = math.ceil(FLOOR * scores.size)
    best = np.argsort(-scores, kind="stable")[:count]
    return np.where(np.isin(np.arange(scores.size), best), np.inf, scores)


def _decide(group: Group, scores: Scores, wanted: float, round_to: int) -> Decision:
    nothing = np.empty(0, dtype=np.int64)
    if group.reason is not None:
        return Decision(group, nothing, group.reason)
    step, atoms, copies = group.step(round_to), int(group.roots.size), max(group.copies)
    if atoms <= step:
        why = f"has {group.channels} channels; with round_to={round_to} none can go"
        return Decision(group, nothing, why)
    exact = (atoms - wanted) / step
    below = math.floor(exact + 1e-9)
    keep = step * max(1, below if exact - below < 0.5 - 1e-9 else below + 1)
    if keep >= atoms:
        why = (
            f"would lose {wanted * copies:.4g} of {group.channels} channels, "
            f"which is nothing when rounded to multiples of {round_to}"
        )
        return Decision(group, nothing, why)
    ranked = np.argsort(-scores[group.name], kind="stable")
    return Decision(group, np.sort(group.roots[ranked[keep:]]))
