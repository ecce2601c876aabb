"""Choose and repair with data: which channels the rest can replace, and the weights that do it.

A layer that loses some of its inputs is refitted to its old output by linear least squares on the
inputs it keeps (He et al. 2017, Luo et al. 2017); what it cannot express, on average, becomes bias.
The error that remains has a closed form in the second moments of the input, so channels are chosen
by removing, one after the other, the one whose loss costs least after the repair (optimal brain
surgeon, Hassibi and Stork 1993). No labels are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lepton_tvm.ir.graph import Array, Expr
from lepton_tvm.passes.prune.channels.groups import Group
from lepton_tvm.passes.prune.channels.labels import Ints
from lepton_tvm.passes.prune.channels.moments import Floats, Moments, Reader

__all__ = ["repair", "repair_cost"]

RIDGE = 1e-2
"""Added to the covariance, as a fraction of its mean variance, so that it can be inverted."""
ROWS_PER_COLUMN = 2
"""With fewer rows than this per column a least-squares fit would learn the samples by heart."""

Seen = Sequence[tuple[Reader, Moments]]


def repair_cost(seen: Seen, arrays: Mapping[Expr, Array], group: Group) -> Floats | None:
    """One score per atom of `group`: the error its loss adds after the best repair.

    Relative to the variance of the output of each layer that reads it, summed over these layers,
    given that every atom with a smaller score is gone already; never decreasing in that order.
    None when no layer that reads the group can be repaired.
    """
    parts = [_Part(r, m, arrays[r.weight.var], group.roots) for r, m in seen if _fits(r, m, group)]
    if not parts:
        return None
    score = np.zeros(group.roots.size)
    left = np.arange(group.roots.size)
    worst = 0.0
    while left.size:
        costs = np.sum([part.costs(left) for part in parts], axis=0)
        gone = int(left[np.argmin(costs)])
        worst = max(worst * (1 + 1e-9), float(costs.min()))
        score[gone] = worst
        left = left[left != gone]
        for part in parts:
            part.remove(gone)
    return score


def repair(
    reader: Reader, moments: Moments, kernel: Array, removed: Ints
) -> tuple[Array, Array] | None:
    """(kernel in its old shape, offset per output channel) without the removed inputs.

    None when the layer reads none of them. With too few rows for a fit only the mean moves into
    the offset.
    """
    gone = np.isin(reader.columns, removed)
    if not gone.any():
        return None
    old = reader.matrix(kernel)
    new = np.where(gone[:, None], 0.0, old)
    if _enough(reader, moments) and not gone.all():
        covariance = _ridged(moments.covariance)
        kept = ~gone
        shift = np.linalg.solve(covariance[np.ix_(kept, kept)], covariance[np.ix_(kept, gone)])
        new[kept] += shift @ old[gone]
    offset = moments.mean @ (old - new)
    # single positions: the taps of one output channel stand side by side, and their means add up
    offset = offset.reshape(-1, kernel.shape[-1]).sum(axis=0)
    return reader.kernel(new, kernel.shape), offset.astype(np.float32)


def _fits(reader: Reader, moments: Moments, group: Group) -> bool:
    return _enough(reader, moments) and bool(np.isin(reader.columns, group.roots).any())


def _enough(reader: Reader, moments: Moments) -> bool:
    return moments.count >= ROWS_PER_COLUMN * len(reader.columns)


def _ridged(covariance: Floats) -> Floats:
    ridge = RIDGE * float(np.trace(covariance)) / len(covariance) + 1e-12
    return covariance + np.eye(len(covariance)) * ridge


class _Part:
    """One layer while channels leave it: its weights refitted, the inverse covariance downdated."""

    def __init__(self, reader: Reader, moments: Moments, kernel: Array, roots: Ints) -> None:
        covariance = _ridged(moments.covariance)
        self._weights = reader.matrix(kernel)
        self._inverse = np.linalg.inv(covariance)
        energy = float(np.einsum("io,ij,jo->", self._weights, covariance, self._weights))
        self._scale = 1.0 / max(energy, 1e-30)
        self._columns = [np.flatnonzero(reader.columns == root) for root in roots]

    def costs(self, left: Ints) -> Floats:
        """The relative error that each atom in `left` would add."""
        found = np.zeros(left.size)
        sizes = np.array([self._columns[i].size for i in left])
        for size in np.unique(sizes[sizes > 0]):
            alike = np.flatnonzero(sizes == size)
            columns = np.stack([self._columns[i] for i in left[alike]])  # [atoms, size]
            weights = self._weights[columns]
            if size == 1:
                diagonal = self._inverse[columns[:, 0], columns[:, 0]]
                found[alike] = np.square(weights).sum(axis=(1, 2)) / diagonal
            else:
                blocks = self._inverse[columns[:, :, None], columns[:, None, :]]
                found[alike] = (weights * np.linalg.solve(blocks, weights)).sum(axis=(1, 2))
        return found * self._scale

    def remove(self, atom: int) -> None:
        """Take out `atom`: refit the weights of the others, downdate the inverse."""
        columns = self._columns[atom]
        if not columns.size:
            return
        side = self._inverse[:, columns]
        factor = np.linalg.solve(side[columns], side.T).T
        self._weights = self._weights - factor @ self._weights[columns]
        self._inverse = self._inverse - factor @ side.T
        self._weights[columns] = 0.0
        # gone columns must stay out of later blocks: a unit diagonal keeps them harmless
        self._inverse[columns, :] = 0.0
        self._inverse[:, columns] = 0.0
        self._inverse[columns, columns] = 1.0
