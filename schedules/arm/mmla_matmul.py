"""Product by `usmmla` (i8mm): 2 x 2 sums in each register, rows in pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.kernels.notes import Form
from lepton_tvm.schedules.arm.mmla_tile import THREAD_DOT, finish_mmla_tile, split_mmla_depth
from lepton_tvm.schedules.base import Choices, new_schedule
from lepton_tvm.schedules.cpu.anchor import (
    find_anchor,
    parallel_outer,
    vectorize_inner,
)
from lepton_tvm.schedules.cpu.matmul import columns_outermost, flatten_rows
from lepton_tvm.targets import Target

__all__ = ["MmlaMatmul"]

_BYTES = 16


@dataclass(frozen=True)
class MmlaMatmul:
    """Template for the reduction block `matmul` whose sums lie in registers of 2 x 2 (int8).

    The loop order is the one of `Matmul`. Two rows of activations become one register by two
    loads of 8 bytes; the sums are put in rows before the epilogue reads them.

    Choices: `column_blocks_outermost`; `unroll_depth`; `unroll_epilogue`.
    """

    name: str
    groups: ClassVar[tuple[str, ...]] = ("matmul",)

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        sch = new_schedule(func)
        anchor = find_anchor(sch, "matmul", Form.MMLA)
        if anchor is None:
            return None
        reduction, store = anchor.reduction, anchor.store
        (pairs,), (sums,) = sch.get_producers(reduction), sch.get_consumers(reduction)
        pad = next(iter(sch.get_producers(pairs)), None)
        flatten_rows(sch, store)
        p, q, i, j, rc, rd = sch.get_loops(reduction)
        extents = [int(sch.get(loop).extent) for loop in (p, q, i, j, rc, rd)]
        macs, depth = math.prod(extents), extents[4] * extents[5]
        block = anchor.lanes * anchor.vectors
        columns_out = columns_outermost(sch, choices, anchor, extents[0] * 2, extents[1] * 2, depth)
        po, pi = sch.split(p, [None, anchor.rows // 2])
        qo, qi = sch.split(q, [None, block // 2])
        rc, steps = split_mmla_depth(sch, choices, anchor, rc)
        outer, inner = (qo, po) if columns_out else (po, qo)
        sch.reorder(outer, inner, rc, *steps, pi, qi, i, j, rd)
        sch.unroll(pi)
        sch.unroll(qi)
        if pad is not None:
            parallel_outer(sch, sch.get_loops(pad)[0], macs, THREAD_DOT)
            vectorize_inner(sch, pad, _BYTES)
        parallel_outer(sch, outer, macs, THREAD_DOT)

        sch.set_scope(pairs, 0, "local")
        sch.compute_at(pairs, pi)
        rows, values = sch.get_loops(pairs)[-2:]
        sch.unroll(rows)
        sch.vectorize(values)
        finish_mmla_tile(sch, anchor, sums, inner, rc, i, "local", choices)
        return sch
