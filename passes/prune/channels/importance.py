"""How much every channel of a group matters, from the weights alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lepton_tvm.errors import InputError
from lepton_tvm.ir.graph import Array, Expr
from lepton_tvm.passes.prune.channels.groups import Group
from lepton_tvm.passes.prune.channels.labels import Axis, Flow, Ints

__all__ = ["NORMS", "group_importance"]

NORMS = ("l2", "l1")


def group_importance(
    flow: Flow, arrays: dict[Expr, Array], group: Group, norm: str = "l2"
) -> npt.NDArray[np.float64]:
    """One score per atom of `group`, float64, mean 1; larger matters more.

    Every layer that makes, filters or reads the channels gives the norm of its slice per channel,
    divided by its own mean, so that wide layers do not drown narrow ones; the score is the mean
    over these layers ("group-level importance", Fang et al. 2023). `arrays` maps the variable of a
    kernel's call to the kernel.
    """
    if norm not in NORMS:
        raise InputError(f"unknown importance norm '{norm}'; known: {', '.join(NORMS)}")
    scores = []
    for weight in flow.weights:
        for axis, position in ((weight.made, weight.made_axis), (weight.read, weight.read_axis)):
            score = _slice_norms(flow, group.roots, arrays[weight.var], axis, position, norm)
            if score is not None:
                scores.append(score)
    return np.mean(scores, axis=0) if scores else np.ones(group.roots.size)


def _slice_norms(
    flow: Flow, wanted: Ints, kernel: Array, axis: Axis, position: int, norm: str
) -> npt.NDArray[np.float64] | None:
    """Norm per atom of the slices of `kernel` along one axis, mean 1; None when it has none."""
    if axis is None:
        return None
    roots = flow.atoms.roots(axis)
    where = {int(r): i for i, r in enumerate(wanted)}
    index = np.array([where.get(int(r), -1) for r in roots])
    if (index < 0).all():
        return None
    rows = np.moveaxis(kernel, position, 0).reshape(kernel.shape[position], -1).astype(np.float64)
    power = np.square(rows).sum(axis=1) if norm == "l2" else np.abs(rows).sum(axis=1)
    total = np.zeros(wanted.size)
    np.add.at(total, index[index >= 0], power[index >= 0])
    score = np.sqrt(total) if norm == "l2" else total
    mean = float(score.mean())
    return score / mean if mean > 0 else np.ones(wanted.size)
