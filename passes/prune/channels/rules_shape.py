"""Channel labels through ops that move data: reshape, permute, pad, concat, split, slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tvm import relax

from lepton_tvm.ir.graph import Expr, shape_of
from lepton_tvm.passes.prune.channels.carry import ints, labels_of, unknown
from lepton_tvm.passes.prune.channels.labels import Axis, Flow, Labels

__all__ = ["concat", "pad", "permute", "reshape", "reshape_labels", "split", "strided_slice"]


def pad(flow: Flow, var: Expr, call: Expr) -> Labels:
    """Padding: a padded axis must stay whole."""
    data = labels_of(flow, call.args[0])
    width = ints(call.attrs.pad_width)
    padded = [i for i in range(len(data)) if any(width[2 * i : 2 * i + 2])]
    for axis in padded:
        flow.atoms.fix(data[axis], f"is padded by '{var.name}'")
    return tuple(None if i in padded else a for i, a in enumerate(data))


def permute(flow: Flow, var: Expr, call: Expr) -> Labels:
    """Transposition: the labels move with their axes."""
    data = labels_of(flow, call.args[0])
    axes = call.attrs.axes
    order = range(len(data))[::-1] if axes is None else [a % len(data) for a in ints(axes)]
    return tuple(data[i] for i in order)


def reshape(flow: Flow, var: Expr, call: Expr) -> Labels:
    """Reshape, flatten, squeeze, expand_dims; see `reshape_labels`."""
    shape, out = shape_of(call.args[0]), shape_of(call)
    labels, lost = reshape_labels(shape, out, labels_of(flow, call.args[0]))
    for axis in lost:
        why = f"is split or mixed with another axis by '{var.name}' {list(shape)} -> {list(out)}"
        flow.atoms.fix(axis, why)
    return labels


def reshape_labels(
    shape: Sequence[int], out: Sequence[int], labels: Labels
) -> tuple[Labels, list[Axis]]:
    """Labels after a reshape, and those input axes that no single output axis can carry.

    The shapes are cut into the smallest runs of equal product. Within a run at most one input axis
    may carry labels; they are spread over the run and must then vary along one output axis only.
    """
    result: list[Axis] = [None] * len(out)
    lost: list[Axis] = []
    for ins, outs in _runs(shape, out):
        labelled = [k for k in ins if labels[k] is not None]
        if not labelled:
            continue
        position = labelled[0] - ins.start
        sizes_in, sizes_out = shape[ins.start : ins.stop], out[outs.start : outs.stop]
        carried = _spread(sizes_in, position, labels[labelled[0]], sizes_out)
        if len(labelled) > 1 or carried is None:
            lost.extend(labels[k] for k in labelled)
        else:
            result[outs.start + carried[0]] = carried[1]
    return tuple(result), lost


def _runs(shape: Sequence[int], out: Sequence[int]) -> Iterator[tuple[range, range]]:
    """Cut two shapes of equal product into the smallest pairs of runs of equal product."""
    i = j = 0
    while i < len(shape) or j < len(out):
        first_in, first_out, left, right = i, j, 1, 1
        if i < len(shape):
            left, i = shape[i], i + 1
        if j < len(out):
            right, j = out[j], j + 1
        while left != right:
            if left < right:
                left, i = left * shape[i], i + 1
            else:
                right, j = right * out[j], j + 1
        yield range(first_in, i), range(first_out, j)


def _spread(
    shape: Sequence[int], axis: int, label: Any, out: Sequence[int]
) -> tuple[int, Any] | None:
    """(output axis, its labels) when the labels vary along that one output axis only."""
    view = label.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    block = np.broadcast_to(view, shape).reshape(out)
    for k, size in enumerate(out):
        if size == 1:
            continue
        line = np.moveaxis(block, k, -1).reshape(-1, size)
        if (line == line[0]).all():
            return k, line[0].copy()
    return None


def concat(flow: Flow, var: Expr, call: Expr) -> Labels:
    """Concatenation: labels in a row along the axis, joined on the others."""
    parts = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else None
    if parts is None:
        return unknown(flow, var, call)
    rank = len(shape_of(call))
    along = int(call.attrs.axis) % rank
    labels = [labels_of(flow, p) for p in parts]
    result: list[Axis] = []
    for axis in range(rank):
        if axis != along:
            joined = labels[0][axis]
            for other in labels[1:]:
                why = f"meets an axis that cannot shrink in '{var.name}' (relax.concat)"
                joined = flow.atoms.meet(joined, other[axis], why)
            result.append(joined)
        elif all(one[axis] is None for one in labels):
            result.append(None)
        else:
            pieces = []
            for part, one in zip(parts, labels, strict=True):
                piece = one[axis]
                if piece is None:
                    piece = flow.atoms.fresh(shape_of(part)[axis])
                    flow.atoms.fix(piece, f"is an input of '{var.name}' that cannot shrink")
                pieces.append(piece)
            result.append(np.concatenate(pieces))
    return tuple(result)


def split(flow: Flow, var: Expr, call: Expr) -> tuple[Labels, ...]:
    """Split: every part takes its run of labels."""
    data = labels_of(flow, call.args[0])
    axis = int(call.attrs.axis) % len(data)
    sizes = [int(t.shape[axis]) for t in call.ty.fields]
    ends = np.cumsum(sizes)
    label = data[axis]
    return tuple(
        (*data[:axis], None if label is None else label[end - size : end], *data[axis + 1 :])
        for size, end in zip(sizes, ends, strict=True)
    )


def strided_slice(flow: Flow, var: Expr, call: Expr) -> Labels:
    """Slice: step 1 takes a run of labels; another step keeps the axis whole."""
    if len(call.args) < 4:
        return unknown(flow, var, call)
    data = list(labels_of(flow, call.args[0]))
    shape, out = shape_of(call.args[0]), shape_of(call)
    axes, begins = ints(call.args[1]), ints(call.args[2])
    steps = ints(call.args[4]) if len(call.args) > 4 else (1,) * len(axes)
    for given, begin, step in zip(axes, begins, steps, strict=True):
        axis = given % len(data)
        label = data[axis]
        if label is None or shape[axis] == out[axis]:
            continue
        start = begin + shape[axis] if begin < 0 else begin
        if step != 1:
            flow.atoms.fix(label, f"is sliced with step {step} by '{var.name}'")
            data[axis] = None
        else:
            data[axis] = label[start : start + out[axis]]
    return tuple(data)
