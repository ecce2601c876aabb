"""Reading the one Relax function `main` of a model: bindings, definitions, who reads what."""

from __future__ import annotations

import tvm
from tvm import relax

from lepton_tvm.errors import CompileError
from lepton_tvm.ir.expressions import Expr, argument_vars

__all__ = ["bindings_of", "consumers", "definitions", "main_of", "output_of"]


def main_of(mod: tvm.IRModule) -> relax.Function:
    """The Relax function `main` of `mod`; `CompileError` where there is none."""
    for gvar, func in mod.functions.items():
        if gvar.name_hint == "main" and isinstance(func, relax.Function):
            return func
    raise CompileError("the module has no Relax function named 'main'; import the model first")


def bindings_of(func: relax.Function) -> list[relax.VarBinding]:
    """All bindings of `func` in order; a match-cast or control flow is a `CompileError`."""
    if not isinstance(func.body, relax.SeqExpr):
        return []
    found = []
    for block in func.body.blocks:
        for binding in block.bindings:
            if not isinstance(binding, relax.VarBinding) or isinstance(binding.value, relax.If):
                kind = "branch" if isinstance(binding, relax.VarBinding) else "match_cast"
                raise CompileError(
                    f"'{binding.var.name}' is a {kind}; passes take straight-line code only, "
                    "so fix every shape and remove control flow before import"
                )
            found.append(binding)
    return found


def output_of(func: relax.Function) -> Expr:
    """What `func` returns: a variable or constant, or a `relax.Tuple` of them."""
    body = func.body.body if isinstance(func.body, relax.SeqExpr) else func.body
    made = definitions(func).get(body)
    return made if isinstance(made, relax.Tuple) else body


def definitions(func: relax.Function) -> dict[relax.Var, Expr]:
    """Variable -> the value bound to it (parameters are not in it)."""
    return {b.var: b.value for b in bindings_of(func)}


def consumers(func: relax.Function) -> dict[relax.Var, list[relax.VarBinding]]:
    """Variable -> the bindings that read it, in order, once each.

    Every variable and parameter is a key. A variable that the function returns also has, last, a
    binding of itself (`binding.var` is that same variable), so that a single entry really means
    that nobody else sees the value.
    """
    func_bindings = bindings_of(func)
    readers: dict[relax.Var, list[relax.VarBinding]] = {p: [] for p in func.params}
    for binding in func_bindings:
        readers.setdefault(binding.var, [])
        for var in dict.fromkeys(argument_vars(binding.value)):
            readers.setdefault(var, []).append(binding)
    made = {b.var: b for b in func_bindings}
    for var in argument_vars(func.body.body if isinstance(func.body, relax.SeqExpr) else func.body):
        readers[var].append(made.get(var) or relax.VarBinding(var, var))
    return readers
