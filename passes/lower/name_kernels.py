"""Short names for the functions that fusion made, as they stand in artifacts and profiles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from lepton_tvm.ir.graph import bindings_of, main_of, op_name
from lepton_tvm.ir.precisions import SUFFIXES
from lepton_tvm.passes.base import PassReport

__all__ = ["NameKernels"]

_ANCHOR = re.compile(rf"(depthwise_conv2d|conv2d|matmul){SUFFIXES}(?=\d|_|$)")
_WORDS = 2


@dataclass(frozen=True)
class NameKernels:
    """Name every kernel after its main op and its place in the calls: `conv2d_int8_4`.

    Before: fused_conv2d_int83_add3_cast6_multiply2_round2_tir_clip2
    After:  conv2d_int8_4
    The main op is the anchor, or else the first words of the chain.
    """

    name: ClassVar[str] = "name-kernels"

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """Apply the pass."""
        mod = mod.clone()
        renamed: dict[tvm.ir.GlobalVar, tvm.ir.GlobalVar] = {}
        counts: dict[str, int] = {}
        for binding in bindings_of(main_of(mod)):
            if not op_name(binding.value).startswith("call_tir:"):
                continue
            gvar = binding.value.args[0]
            if gvar in renamed:
                continue
            stem = _stem(gvar.name_hint)
            number = counts.get(stem, 0)
            counts[stem] = number + 1
            renamed[gvar] = tvm.ir.GlobalVar(f"{stem}_{number}")
            relax.expr._update_type(renamed[gvar], gvar.ty)
        mapper = _Renamer(renamed)
        functions = {}
        for gvar, func in mod.functions.items():
            if isinstance(func, tirx.PrimFunc) and gvar in renamed:
                functions[renamed[gvar]] = func
            elif isinstance(func, relax.Function):
                functions[gvar] = mapper.visit_expr(func)
            else:
                functions[gvar] = func
        made = tvm.IRModule(functions, attrs=mod.attrs)
        return made, PassReport(self.name, len(renamed))


def _stem(name: str) -> str:
    found = _ANCHOR.search(name)
    if found is not None:
        return found.group(0)
    words = [re.sub(r"\d+$", "", w) for w in name.removeprefix("fused_").split("_")]
    return "_".join([w for w in words if w and w != "tir"][:_WORDS])


@mutator
class _Renamer(PyExprMutator):  # type: ignore[misc]
    def __init__(self, renamed: dict[tvm.ir.GlobalVar, tvm.ir.GlobalVar]) -> None:
        super().__init__()
        self._renamed = renamed

    def visit_global_var_(self, gvar: tvm.ir.GlobalVar) -> tvm.ir.GlobalVar:
        return self._renamed.get(gvar, gvar)
