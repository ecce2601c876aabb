"""Dependency groups: sets of channels that can only leave the network together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lepton_tvm.passes.prune.channels.labels import Flow, Ints

__all__ = ["Group", "find_groups"]


@dataclass(frozen=True)
class Group:
    """Channels made by the same layers.

    `makers`: names of the convolutions and dense layers that all write these channels.
    `roots`: one representative atom per channel, in channel order.
    `copies`: how often one atom stands in the widest maker (more than 1 in grouped convolutions).
    `reason`: why the group must stay whole, or None.
    """

    makers: tuple[str, ...]
    roots: Ints
    copies: tuple[int, ...]
    reason: str | None

    @property
    def name(self) -> str:
        """The names of the makers with their copies, joined: no two groups share it."""
        parts = zip(self.makers, self.copies, strict=True)
        return "+".join(name if count == 1 else f"{name}*{count}" for name, count in parts)

    @property
    def channels(self) -> int:
        """Channels of the widest maker that belong to the group."""
        return int(self.roots.size) * max(self.copies)

    def step(self, round_to: int) -> int:
        """Atoms that must leave or stay together so that every maker keeps multiples."""
        steps = (round_to // math.gcd(round_to, copies) for copies in self.copies)
        return math.lcm(*steps)


def find_groups(flow: Flow) -> tuple[Group, ...]:
    """All groups in graph order.

    Channels belong to one group when exactly the same layers make them, so a residual stream is one
    group, and the two halves of a concatenation that is added to something else are two.
    """
    makers: dict[int, list[tuple[str, int]]] = {}  # root -> (layer, copies)
    for weight in flow.weights:
        if weight.made is None:
            continue
        roots, first, counts = np.unique(
            flow.atoms.roots(weight.made), return_index=True, return_counts=True
        )
        order = np.argsort(first, kind="stable")
        for root, count in zip(roots[order].tolist(), counts[order].tolist(), strict=True):
            makers.setdefault(root, []).append((weight.var.name, count))
    cells: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for root, made_by in makers.items():
        cells.setdefault(tuple(made_by), []).append(root)
    return tuple(_group(flow, made_by, roots) for made_by, roots in cells.items())


def _group(flow: Flow, made_by: tuple[tuple[str, int], ...], roots: list[int]) -> Group:
    reasons = (flow.atoms.reason(r) for r in roots)
    return Group(
        makers=tuple(name for name, _ in made_by),
        roots=np.array(roots, dtype=np.int64),
        copies=tuple(count for _, count in made_by),
        reason=next((r for r in reasons if r is not None), None),
    )
