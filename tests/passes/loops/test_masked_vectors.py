"""Tails of vector loops: the numbers, the masked instructions, and what is left as it was."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from lepton_tvm.compiler.build_cpu import build_kernels
from lepton_tvm.ir.graph import Array
from lepton_tvm.targets import ISAS, parse_target
from tests.support.kernels import needs

Body = Callable[..., Any]
# the room exports the pass under the name of its file
masked_module = importlib.import_module("lepton_tvm.passes.loops.masked_vectors")


def scheduled(body: Body, shapes: list[tuple[int, ...]], dtype: str, lanes: int) -> Any:
    """`body` over placeholders, its last loop split by `lanes` and vectorised."""
    ins = [te.placeholder(s, dtype, f"x{i}") for i, s in enumerate(shapes)]
    func = te.create_prim_func([*ins, body(*ins)])
    sch = tvm.s_tir.Schedule(tvm.IRModule({"main": func}))
    loops = sch.get_loops(sch.get_sblock("out"))
    _, inner = sch.split(loops[-1], [None, lanes])
    sch.vectorize(inner)
    return sch.mod


def answer(mod: Any, isa: str, inputs: list[Array], shape: tuple[int, ...], dtype: str) -> Array:
    built = build_kernels(mod, parse_target(f"x86:{isa}"))
    result = tvm.runtime.empty(shape, dtype)
    built["main"](*[tvm.runtime.tensor(x) for x in inputs], result)
    made: Array = result.numpy()
    return made


def biased(x: Any, b: Any) -> Any:
    return te.compute(x.shape, lambda i, j: x[i, j] * x[i, j] + b[j], name="out")


def padded(x: Any, _: Any) -> Any:
    rows, columns = (int(d) for d in x.shape)
    fill = tirx.const(3, x.dtype)
    return te.compute(
        (rows, columns + 5),
        lambda i, j: tirx.if_then_else(
            tirx.all(i >= 1, j >= 2, j < columns + 2), x[tirx.max(i, 1), j - 2], fill
        ),
        name="out",
    )


def joined(x: Any, b: Any) -> Any:
    rows, columns = (int(d) for d in x.shape)
    return te.compute(
        (rows, 2 * columns),
        lambda i, j: tirx.if_then_else(j < columns, x[i, j], b[j - columns]),
        name="out",
    )


def expected(body: Body, x: Array, b: Array) -> Array:
    if body is biased:
        return x * x + b
    if body is joined:
        return np.concatenate([x, np.broadcast_to(b, x.shape)], 1)
    wide = np.pad(x, ((0, 0), (2, 3)), constant_values=3)
    wide[0] = 3
    return wide


@pytest.mark.parametrize("body", [biased, padded, joined])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int32"])
@pytest.mark.parametrize("isa", list(ISAS))
def test_odd_columns(body: Body, dtype: str, isa: str) -> None:
    needs(isa)
    for columns in (5, 21, 58):
        rng = np.random.default_rng(columns)
        shapes: list[tuple[int, ...]] = [(3, columns), (columns,)]
        x, b = (rng.integers(0, 15, s).astype(dtype) for s in shapes)
        want = expected(body, x, b)
        mod = scheduled(body, shapes, dtype, 16)
        np.testing.assert_array_equal(answer(mod, isa, [x, b], want.shape, dtype), want)


@pytest.mark.parametrize("body", [biased, padded, joined])
def test_no_lane_is_left_to_scalar_code(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = masked_module._vector_loop

    def watch(loop: Any, analyzer: Any) -> Any:
        made = real(loop, analyzer)
        seen.append("llvm.masked" in str(made) and not made.same_as(loop))
        return made

    monkeypatch.setattr(masked_module, "_vector_loop", watch)
    mod = scheduled(body, [(3, 21), (21,)], "float32", 16)
    answer(mod, "sse", [np.ones((3, 21), "f4"), np.ones(21, "f4")], mod_shape(mod), "float32")
    assert seen == [True]


def mod_shape(mod: Any) -> tuple[int, ...]:
    return tuple(int(d) for d in mod["main"].params[-1].shape)


def test_gathers_stay_scalar_and_right() -> None:
    def transposed(x: Any, _: Any) -> Any:
        rows, columns = (int(d) for d in x.shape)
        return te.compute((columns, rows), lambda i, j: x[j, i], name="out")

    x = np.arange(21 * 5, dtype="float32").reshape(21, 5)
    mod = scheduled(transposed, [(21, 5), (1,)], "float32", 16)
    got = answer(mod, "sse", [x, np.zeros(1, "f4")], (5, 21), "float32")
    np.testing.assert_array_equal(got, x.T)


def test_bounds_that_fall_with_the_lane_are_left_alone() -> None:
    lane = tirx.Var("j", "int32")
    x, y = (tirx.decl_buffer((16,), "float32", n) for n in "xy")
    for bound, handled in ((lane + 3 < 16, True), (20 - lane < 16, False)):
        guarded = tirx.IfThenElse(bound, tirx.BufferStore(y, x[lane] + 1.0, [lane]), None)
        loop = tirx.For(lane, 0, 16, tirx.ForKind.VECTORIZED, guarded)
        made = masked_module._vector_loop(loop, tvm.sym.Analyzer())
        assert made.same_as(loop) is not handled
