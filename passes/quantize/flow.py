"""Where values flow: which of them a fused kernel keeps in registers and which it must store."""

from __future__ import annotations

from collections.abc import Set

from tvm import relax

from lepton_tvm.ir import graph as g

__all__ = ["Flow"]


class Flow:
    """Post-dominators of the bindings of one function.

    A value stays in its kernel when all its readers meet again in one op (its immediate
    post-dominator) and everything on the way there, that op included, is elementwise: the rule by
    which TVM's FuseOps grows an epilogue (Boehm et al. and Relay's operator fusion).
    """

    def __init__(self, func: relax.Function, elementwise: Set[str]) -> None:
        self._elementwise = elementwise
        self._readers = g.consumers(func)
        self._made = g.definitions(func)
        self._parent: dict[relax.Var, relax.Var | None] = {}
        self._depth: dict[relax.Var | None, int] = {None: 0}
        for var in [*reversed(list(self._made)), *func.params]:
            self._place(var)

    def stays_in_kernel(self, var: relax.Var) -> bool:
        """Whether every reader of `var` can be fused behind it."""
        end = self._parent[var]
        if end is None:
            return False
        pending, seen = [var], {var}
        while pending:
            for reader in self._readers[pending.pop()]:
                if g.op_name(reader.value) not in self._elementwise:
                    return False
                if reader.var not in seen and not reader.var.same_as(end):
                    seen.add(reader.var)
                    pending.append(reader.var)
        return True

    def _place(self, var: relax.Var) -> None:
        readers: list[relax.Var | None] = [
            None if r.var.same_as(var) else r.var for r in self._readers[var]
        ]
        parent = readers[0] if readers else None
        for other in readers[1:]:
            parent = self._meet(parent, other)
        self._parent[var] = parent
        self._depth[var] = self._depth[parent] + 1

    def _meet(self, a: relax.Var | None, b: relax.Var | None) -> relax.Var | None:
        while a is not None and b is not None and not a.same_as(b):
            if self._depth[a] >= self._depth[b]:
                a = self._parent[a]
            else:
                b = self._parent[b]
        return a if b is not None else None
