"""Give every binding a readable, unique name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import relax

from lepton_tvm.ir.graph import (
    Expr,
    GraphBuilder,
    bindings_of,
    main_of,
    output_of,
    substitute,
)
from lepton_tvm.passes.base import PassReport

__all__ = ["NameBindings"]


@dataclass(frozen=True)
class NameBindings:
    """Name every binding `<op>_<number>`: `conv2d_0`, `add_0`, `conv2d_1`, ...

    These are the names that reports use. Later passes keep the names of what they do not touch, so
    this runs once, after the model is canonical. Parameters keep their names.
    """

    name: ClassVar[str] = "name-bindings"

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """Apply the pass."""
        mod = mod.clone()
        func = main_of(mod)
        builder = GraphBuilder(mod)
        builder.forget_names()
        env: dict[relax.Var, Expr] = {}
        changed = 0
        for binding in bindings_of(func):
            new = builder.emit(substitute(binding.value, env))
            env[binding.var] = new
            changed += getattr(new, "name", None) != binding.var.name
        return builder.finish(substitute(output_of(func), env)), PassReport(self.name, changed)
