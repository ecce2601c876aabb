"""Writing a new `main` binding by binding, from nothing or from what an old one holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import tvm
from tvm import relax

from lepton_tvm.ir.expressions import (
    Expr,
    argument_vars,
    is_constant,
    op_name,
    short_op,
    substitute,
    with_args,
)
from lepton_tvm.ir.reading import bindings_of, consumers, definitions, main_of

__all__ = ["GraphBuilder", "Visit", "rewrite", "with_named_outputs", "with_output"]


class GraphBuilder:
    """Writes a new `main` binding by binding, with inferred types and chosen names.

    Names: `emit(expr, name)` takes `name` as it is when it is free, else (or when None) the next
    `<op>_<n>`. PrimFuncs and other functions of the module are carried over by `finish`.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        self._mod = mod.clone()
        self._old = main_of(mod)
        # names of the old bindings are never chosen for new ones: they may still be asked for
        self._reserved = {b.var.name for b in bindings_of(self._old)}
        self._normal = relax.BlockBuilder(self._mod)
        self._made: list[tuple[relax.DataflowVar, Expr]] = []
        self._values: dict[relax.Var, Expr] = {}
        self._taken: set[str] = {p.name for p in self._old.params}
        self._next: dict[str, int] = {}
        self._readers: dict[relax.Var, list[relax.VarBinding | None]] = {}

    @property
    def mod(self) -> tvm.IRModule:
        """The module being written; look up PrimFuncs here, do not change it."""
        return self._mod

    def forget_names(self) -> None:
        """Let new bindings take the names of old ones (for a pass that renames everything)."""
        self._reserved = set()

    def emit(self, expr: Expr, name: str | None = None) -> Expr:
        """Bind `expr` and return its variable; variables and constants are returned as they are.

        Tensor expressions nested in `expr` are bound first, so an expression tree may be given.
        """
        if isinstance(expr, relax.Var) or is_constant(expr):
            return expr
        expr = self.typed(expr)
        if name is None or name in self._taken:
            name = self._fresh(short_op(expr))
        self._taken.add(name)
        var = relax.DataflowVar(name, expr.ty)
        self._made.append((var, expr))
        self._values[var] = expr
        return var

    def typed(self, expr: Expr) -> Expr:
        """`expr` with its type inferred; calls nested in its arguments are emitted first."""
        return self._normal.normalize(self._flatten(expr))

    def value(self, expr: Expr) -> Expr:
        """What a variable emitted here is bound to; anything else (a parameter too) unchanged."""
        return self._values.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def uses(self, expr: Expr) -> int:
        """How many bindings of the old `main` read this value (a returned value counts once more).

        Never too low during `rewrite`; 1 for what `emit` bound on the way.
        """
        return len(self._readers.get(expr, [None])) if isinstance(expr, relax.Var) else 1

    def readers(self, expr: Expr) -> list[relax.VarBinding | None]:
        """The bindings of the old `main` that read this value; None where it is returned."""
        return list(self._readers.get(expr, ()))

    def single_use(self, expr: Expr) -> Expr | None:
        """The call that made `expr` when nobody but the present reader sees it, else None."""
        made = self.value(expr)
        return made if made is not expr and self.uses(expr) == 1 else None

    def finish(self, output: Expr, params: Sequence[relax.Var] | None = None) -> tvm.IRModule:
        """The module with the new `main` that returns `output` (a Tuple for several outputs).

        Bindings that nobody reads are dropped. `params` defaults to those of the old `main`.
        """
        params = list(self._old.params) if params is None else list(params)
        if isinstance(output, relax.Tuple):
            fields = [self.emit(f) for f in output.fields]
            output = self.emit(relax.Tuple(fields), "outputs")
        live = self._live_bindings(output)
        # a returned variable must be visible outside the dataflow block
        if isinstance(output, relax.DataflowVar):
            result = relax.Var(output.name, output.ty)
            rename = {output: result}
        else:
            result = relax.Var("output", output.ty)
            rename = {}
            live = [*live, (result, output)]
        bindings = []
        for var, value in live:
            new_value = substitute(value, rename)
            if new_value is not value:
                new_value = self._normal.normalize(new_value)
            bindings.append(relax.VarBinding(rename.get(var, var), new_value))
        body = self._normal.normalize(relax.SeqExpr([relax.DataflowBlock(bindings)], result))
        self._mod["main"] = relax.Function(
            params, body, result.ty, self._old.is_pure, self._old.attrs
        )
        return _drop_unused_primfuncs(self._mod)

    def _live_bindings(self, output: Expr) -> list[tuple[relax.Var, Expr]]:
        needed = set(argument_vars(output))
        live = []
        for var, value in reversed(self._made):
            if var in needed:
                needed.update(argument_vars(value))
                live.append((var, value))
        return live[::-1]

    def _flatten(self, expr: Expr) -> Expr:
        """Bind calls nested in the arguments of `expr`."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._flat_argument(f) for f in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self._flat_argument(expr.tuple_value), expr.index)
        if not isinstance(expr, tvm.ir.Call):
            return expr
        args = [self._flat_argument(a) for a in expr.args]
        if all(a is b or a.same_as(b) for a, b in zip(args, expr.args, strict=True)):
            return expr
        return with_args(expr, args)

    def _flat_argument(self, arg: Expr) -> Expr:
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([self._flat_argument(f) for f in arg.fields])
        if isinstance(arg, relax.TupleGetItem):
            return self.emit(arg)
        is_tensor_call = isinstance(arg, tvm.ir.Call) and op_name(arg).startswith("relax.")
        return self.emit(arg) if is_tensor_call else arg

    def _fresh(self, op: str) -> str:
        number = self._next.get(op, 0)
        while f"{op}_{number}" in self._taken or f"{op}_{number}" in self._reserved:
            number += 1
        self._next[op] = number + 1
        return f"{op}_{number}"


Visit: TypeAlias = Callable[[GraphBuilder, relax.Var, Expr], Expr | None]


def rewrite(mod: tvm.IRModule, visit: Visit) -> tuple[tvm.IRModule, int]:
    """Rebuild `main`, asking `visit(builder, old_var, value)` about every binding in order.

    `value` already reads the new variables (`builder.value(arg)` is what made an argument), while
    `old_var` is the variable of the module that came in, fit for look-up in `consumers`. `visit`
    answers None to keep the binding under its name, or the expression to use in its place: a call
    or tree of calls takes over the name when the op stays the same, a variable or constant makes
    the binding vanish. Returns the new module and how many bindings were replaced; `mod` itself is
    never changed, and dead bindings and unused PrimFuncs are dropped.
    """
    func = main_of(mod)
    old = bindings_of(func)
    old_readers = consumers(func)
    params = set(func.params)
    builder = GraphBuilder(mod)
    builder._readers = {p: _seen_by(p, old_readers) for p in params}
    env: dict[relax.Var, Expr] = {}
    changed = 0
    for binding in old:
        value = substitute(binding.value, env)
        if value is not binding.value and isinstance(value, tvm.ir.Call | relax.TupleGetItem):
            value = builder.typed(value)
        answer = value
        if not isinstance(value, relax.Var) and not is_constant(value):
            answer = visit(builder, binding.var, value)
            changed += answer is not None
        if answer is None:
            new = builder.emit(value, binding.var.name)
        else:
            keeps = short_op(answer) == short_op(binding.value)
            new = builder.emit(answer, binding.var.name if keeps else None)
        env[binding.var] = new
        if isinstance(new, relax.Var):
            seen = _seen_by(binding.var, old_readers)
            builder._readers[new] = [*builder._readers.get(new, ()), *seen]
    output = func.body.body if isinstance(func.body, relax.SeqExpr) else func.body
    result = substitute(output, env)
    made = builder.value(result)
    return builder.finish(made if isinstance(made, relax.Tuple) else result), changed


def _seen_by(
    var: relax.Var, readers: Mapping[relax.Var, Sequence[relax.VarBinding]]
) -> list[relax.VarBinding | None]:
    """The readers of `var`; None stands for the function's result."""
    return [None if reader.var is var else reader for reader in readers[var]]


def with_output(mod: tvm.IRModule, output: Expr) -> tvm.IRModule:
    """A copy of `mod` whose `main` returns `output`, an expression (or Tuple) of its variables."""
    builder = GraphBuilder(mod)
    new: dict[relax.Var, Expr] = {}
    for var, value in definitions(main_of(mod)).items():
        new[var] = builder.emit(substitute(value, new), var.name)
    return builder.finish(substitute(output, new))


def with_named_outputs(mod: tvm.IRModule, names: Sequence[str]) -> tvm.IRModule:
    """A copy of `mod` whose `main` returns a tuple of the bindings of these names."""
    by_name = {var.name: var for var in definitions(main_of(mod))}
    return with_output(mod, relax.Tuple([by_name[n] for n in names]))


def _drop_unused_primfuncs(mod: tvm.IRModule) -> tvm.IRModule:
    """Remove every PrimFunc that `main` does not call (`main` is the only entry)."""
    used = {
        a.name_hint
        for b in bindings_of(main_of(mod))
        if isinstance(b.value, tvm.ir.Call)
        for a in b.value.args
        if isinstance(a, tvm.ir.GlobalVar)
    }
    for gvar, func in list(mod.functions.items()):
        if isinstance(func, tvm.tirx.PrimFunc) and gvar.name_hint not in used:
            del mod[gvar]
    return mod
