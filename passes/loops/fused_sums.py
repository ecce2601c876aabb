"""Sums of float32 products in one rounding, where a kernel for a GPU adds them up."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

__all__ = ["fused_sums"]


@tvm.transform.module_pass(opt_level=0, name="lepton.fused_sums")
def fused_sums(mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
    """Make running sums of products fused multiply-adds; everything else stays as it is.

    Before: acc[i] = acc[i] + a * b      float32
    After:  acc[i] = fma(a, b, acc[i])

    NVIDIA's compiler is told not to fuse by itself, so that the arithmetic of requantization is
    that of CPUs bit for bit; this gives the products of convolutions their instruction back. Runs
    on lowered functions. Does not handle: vectors, other types, sums in other places.
    """
    mod = mod.clone()
    for gvar, func in list(mod.functions.items()):
        if isinstance(func, tirx.PrimFunc):
            body = tvm_ffi.structural_map(func.body, (tirx.BufferStore, _fused), order="post")
            mod[gvar] = func.with_body(body)
    return mod


def _fused(store: Any) -> Any:
    value = store.value
    if not isinstance(value, tirx.Add) or str(store.buffer.dtype).removeprefix("T.") != "float32":
        return store
    for total, product in ((value.a, value.b), (value.b, value.a)):
        if isinstance(product, tirx.Mul) and _is_same_place(store, total):
            made = tirx.call_pure_extern("float32", "__fmaf_rn", product.a, product.b, total)
            return tirx.BufferStore(store.buffer, made, store.indices)
    return store


def _is_same_place(store: Any, load: Any) -> bool:
    return (
        isinstance(load, tvm.ir.TensorLoad)
        and load.source.same_as(store.buffer)
        and all(
            tvm_ffi.structural_equal(a, b) for a, b in zip(store.indices, load.indices, strict=True)
        )
    )
