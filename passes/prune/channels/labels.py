"""Which channels hang together: one label per position of every tensor axis, joined by union-find.

Every output channel of a dense convolution or matrix product gets a fresh *atom*. Walking the graph
in order, each op says how the atoms of its inputs appear on its output: an addition joins them, a
concatenation puts them in a row, a flatten repeats them, a convolution ends them in the rows of its
weight. To remove an atom is to drop every position that carries it, in activations and in weights,
so index mappings need no case of their own. After DepGraph (Fang et al. 2023, Torch-Pruning), which
follows the same dependencies through pairs of layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lepton_tvm.ir.graph import Expr

__all__ = ["Atoms", "Axis", "Flow", "Ints", "Labels", "Weight"]

Ints: TypeAlias = npt.NDArray[np.int64]
Axis: TypeAlias = "Ints | None"
"""The atom of every position of one axis, or None for an axis that never shrinks."""
Labels: TypeAlias = "tuple[Axis, ...]"
"""One `Axis` per dimension of a tensor."""


class Atoms:
    """Union-find over integer atoms; a set is fixed, with a reason, when it must be kept whole."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reason: dict[int, str] = {}

    def fresh(self, count: int) -> Ints:
        """`count` new atoms, each a set of its own."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def find(self, atom: int) -> int:
        """The representative of the set of `atom`: its smallest member."""
        root = atom
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[atom] != root:
            self._parent[atom], atom = root, self._parent[atom]
        return root

    def roots(self, atoms: Ints) -> Ints:
        """The representative of every atom, in place."""
        unique, inverse = np.unique(atoms, return_inverse=True)
        found = np.array([self.find(int(a)) for a in unique], dtype=np.int64)
        return found[inverse.reshape(atoms.shape)]

    def join(self, left: Ints, right: Ints) -> None:
        """Union position by position; a reason on either side holds for both."""
        for a, b in np.unique(np.stack([left, right], axis=1), axis=0).tolist():
            first, second = sorted((self.find(a), self.find(b)))
            if first == second:
                continue
            self._parent[second] = first
            reason = self._reason.pop(second, None)
            if reason is not None:
                self._reason.setdefault(first, reason)

    def fix(self, axis: Axis, reason: str) -> None:
        """Never remove these atoms; the first reason given is the one that is kept."""
        if axis is None:
            return
        for atom in np.unique(axis).tolist():
            self._reason.setdefault(self.find(atom), reason)

    def reason(self, root: int) -> str | None:
        """Why the set of `root` must stay, or None when it may go."""
        return self._reason.get(root)

    def meet(self, left: Axis, right: Axis, reason: str) -> Axis:
        """One axis seen from two sides: joined, or fixed for `reason` where one side is rigid."""
        if left is None or right is None:
            self.fix(left, reason)
            self.fix(right, reason)
            return None
        self.join(left, right)
        return left


@dataclass(frozen=True)
class Weight:
    """A constant kernel, the second argument of the call bound to `var`, and its channel axes.

    `made` is None for a depthwise kernel, whose `read` axis is also what it makes.
    `made_axis` and `read_axis` index the kernel.
    """

    var: Expr
    op: str
    made: Axis
    made_axis: int
    read: Axis
    read_axis: int

    @property
    def depthwise(self) -> bool:
        """One filter per input channel: nothing is summed over channels."""
        return self.made is None


@dataclass(frozen=True)
class Flow:
    """The labels of a whole function.

    `values`: variable -> labels of its tensor, or a tuple of them for a tuple value.
    `constants`: (variable of the binding, argument index) -> labels of that constant argument.
    `weights`: every constant kernel in graph order.
    """

    atoms: Atoms = field(default_factory=Atoms)
    values: dict[Expr, Labels | tuple[Labels, ...]] = field(default_factory=dict)
    constants: dict[tuple[Expr, int], Labels] = field(default_factory=dict)
    weights: list[Weight] = field(default_factory=list)
