"""Tensor intrinsics from a record: the functions that TVM gets, and which records are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tvm.ir import assert_structural_equal
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from lepton_tvm.schedules.intrinsic import Intrinsic, Operand, register


def _issue(A: Any, C: Any) -> None:
    T.buffer_store(C, A[0, A.strides[0]], [0])


_SUM = Intrinsic(
    name="lepton.test_sum",
    operands=(
        Operand((2, 6), "int32", code_strides=(None, 1)),
        Operand((6,), "int32", "local"),
    ),
    loops={"v": 3, "k": 2, "j": 2},
    spatial=("vj",),
    reduced=("k",),
    term=lambda A, j, k: A[k, j],
    code=_issue,
)


def test_both_functions_are_those_written_out() -> None:
    @T.prim_func(s_tir=True)
    def desc(a: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (2, 6), "int32", offset_factor=1)
        C = T.match_buffer(c, (6,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:6], A[0:2, 0:6])
            T.writes(C[0:6])
            for v, k, j in T.grid(3, 2, 2):
                with T.sblock("update"):
                    vj = T.axis.spatial(6, v * 2 + j)
                    vk = T.axis.reduce(2, k)
                    C[vj] = C[vj] + A[vk, vj]

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, c: T.handle) -> None:
        stride = T.int32()
        A = T.match_buffer(a, (2, 6), "int32", offset_factor=1, strides=[stride, 1])
        C = T.match_buffer(c, (6,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:6], A[0:2, 0:6])
            T.writes(C[0:6])
            C[0] = A[0, stride]

    made = TensorIntrin.get(register(_SUM))
    assert_structural_equal(made.desc, desc)
    assert_structural_equal(made.impl, impl)


def test_a_record_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="every loop belongs to one axis"):
        replace(_SUM, reduced=())
    with pytest.raises(ValueError, match="do not cover a result"):
        replace(_SUM, loops={"v": 3, "k": 2, "j": 4})
    with pytest.raises(ValueError, match="has not the strides"):
        Operand((2, 6), "int32", strides=(1,))
