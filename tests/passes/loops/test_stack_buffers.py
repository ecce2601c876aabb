"""Temporary buffers of lowered kernels: on the stack where they are small."""

from __future__ import annotations

import numpy as np
import tvm
import tvm_ffi
from tvm import te

from lepton_tvm.compiler.build_cpu import build_kernels
from lepton_tvm.passes.loops.stack_buffers import stack_buffers
from lepton_tvm.targets import parse_target


def _copied_twice(size: int) -> tvm.IRModule:
    """y = x + 1 through a buffer of `size` floats that each of eight parallel steps fills."""
    x = te.placeholder((8, size), "float32", "x")
    middle = te.compute(x.shape, lambda i, j: x[i, j] + 1.0, name="middle")
    y = te.compute(x.shape, lambda i, j: middle[i, size - 1 - j], name="y")
    sch = tvm.s_tir.Schedule(tvm.IRModule({"main": te.create_prim_func([x, y])}))
    outer, _ = sch.get_loops(sch.get_sblock("y"))
    sch.parallel(outer)
    sch.compute_at(sch.get_sblock("middle"), outer)
    return sch.mod


def _built(mod: tvm.IRModule) -> tvm.runtime.Module:
    return build_kernels(mod, parse_target("native"))


def _allocates(built: tvm.runtime.Module) -> bool:
    code = built.mod.inspect_source("ll")
    return any("load" in line and "AllocWorkspace" in line for line in code.splitlines())


def test_small_buffers_need_no_allocator_and_give_the_same_numbers() -> None:
    mod = _copied_twice(600)
    plain = tvm.compile(mod, target=parse_target("native").tvm, tir_pipeline="s_tir")
    ours = _built(mod)
    assert _allocates(plain), "TVM itself keeps such buffers on the stack now: drop the pass"
    assert not _allocates(ours)
    x = np.arange(8 * 600, dtype="float32").reshape(8, 600)
    got = tvm.runtime.empty(x.shape, "float32")
    ours["main"](tvm.runtime.tensor(x), got)
    np.testing.assert_array_equal(got.numpy(), x[:, ::-1] + 1)


def test_large_buffers_stay_with_the_allocator() -> None:
    assert _allocates(_built(_copied_twice(20_000)))


def test_the_module_that_comes_in_is_left_alone() -> None:
    lowering = tvm.tirx.get_tir_pipeline("s_tir")[0]
    with parse_target("native").tvm:
        lowered = lowering(
            tvm.tirx.transform.BindTarget(parse_target("native").tvm)(_copied_twice(600))
        )
    before = tvm.ir.save_json(lowered)
    marked = stack_buffers(lowered)
    assert tvm.ir.save_json(lowered) == before
    assert not tvm_ffi.structural_equal(lowered, marked)
    assert tvm_ffi.structural_equal(stack_buffers(marked), marked)
