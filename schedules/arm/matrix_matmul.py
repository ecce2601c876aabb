"""Product by `usmmla` (i8mm): 2 x 2 sums in each register, rows in pairs."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import tvm
from tvm.s_tir import Schedule, TensorIntrin
from tvm.script import tirx as T

from lepton_tvm.schedules.base import Choices, new_schedule
from lepton_tvm.schedules.cpu.anchor import (
    find_anchor,
    parallel_outer,
    split_depth,
    unroll_between,
    vectorize_inner,
)
from lepton_tvm.schedules.cpu.matmul import columns_outermost, flatten_rows
from lepton_tvm.targets import Target

__all__ = ["MatrixMatmul"]

_BYTES = 16


@dataclass(frozen=True)
class MatrixMatmul:
    """Template for the reduction block `matmul` whose sums lie in registers of 2 x 2 (int8).

    The loop order is the one of `Matmul`. Two rows of activations become one register by two
    loads of 8 bytes; the sums are put in rows before the epilogue reads them.

    Choices: `column_blocks_outermost`; `unroll_depth`; `unroll_epilogue`.
    """

    name: str

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        sch = new_schedule(func)
        anchor = find_anchor(sch, "matmul", form="lepton.matrix")
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
        rc, steps = split_depth(sch, choices, rc, anchor.rows * anchor.vectors)
        outer, inner = (qo, po) if columns_out else (po, qo)
        sch.reorder(outer, inner, rc, *steps, pi, qi, i, j, rd)
        sch.unroll(pi)
        sch.unroll(qi)
        if pad is not None:
            parallel_outer(sch, sch.get_loops(pad)[0], macs, 4)
            vectorize_inner(sch, pad, _BYTES)
        parallel_outer(sch, outer, macs, 4)

        sch.set_scope(reduction, 0, "local")
        sch.set_scope(pairs, 0, "local")
        sch.set_scope(sums, 0, "local")
        sch.compute_at(pairs, pi)
        rows, values = sch.get_loops(pairs)[-2:]
        sch.unroll(rows)
        sch.vectorize(values)
        sch.reverse_compute_at(sums, inner, preserve_unit_loops=True)
        sch.reverse_compute_at(store, inner, preserve_unit_loops=True)
        rows, columns = sch.get_loops(sums)[-2:]
        columns, lanes = sch.split(columns, [None, anchor.lanes])
        sch.unroll(rows)
        sch.unroll(columns)
        sch.vectorize(lanes)

        init = sch.decompose_reduction(reduction, rc)
        sch.tensorize(i, _usmmla())
        *_, pi, qi, i, j = sch.get_loops(init)
        sch.unroll(pi)
        sch.unroll(qi)
        sch.vectorize(sch.fuse(i, j))
        vectorize_inner(sch, store, anchor.lanes)
        if choices.pick(sch, "unroll_epilogue", [0, 1], 0):
            unroll_between(sch, inner, store, anchor.rows * anchor.vectors)
        return sch


@functools.cache
def _usmmla() -> str:
    """The name of: C[i, j] += sum over k < 8 of A[i, k] * B[j, k] for 2 rows i and 2 columns j."""

    @T.prim_func(s_tir=True)
    def desc(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (2, 8), "uint8", offset_factor=1, scope="local")
        B = T.match_buffer(b, (2, 8), "int8", offset_factor=1)
        C = T.match_buffer(c, (2, 2), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:2, 0:2], A[0:2, 0:8], B[0:2, 0:8])
            T.writes(C[0:2, 0:2])
            for i, j, k in T.grid(2, 2, 8):
                with T.sblock("update"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "int32") * T.cast(B[vj, vk], "int32")

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (2, 8), "uint8", offset_factor=1, scope="local")
        B = T.match_buffer(b, (2, 8), "int8", offset_factor=1)
        C = T.match_buffer(c, (2, 2), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:2, 0:2], A[0:2, 0:8], B[0:2, 0:8])
            T.writes(C[0:2, 0:2])
            C[0, T.ramp(0, 1, 4)] = T.call_llvm_pure_intrin(
                "int32x4",
                "llvm.aarch64.neon.usmmla",
                C.vload([0, 0], dtype="int32x4"),
                T.reinterpret("int8x16", A.vload([0, 0], dtype="uint8x16")),
                B.vload([0, 0], dtype="int8x16"),
            )

    TensorIntrin.register("lepton.usmmla", desc, impl, override=True)
    return "lepton.usmmla"
