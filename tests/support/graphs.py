"""Shared by the tests of passes: build a module, check a pass on it, run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from lepton_tvm.ir.graph import (
    Array,
    Expr,
    bindings_of,
    constant,
    main_of,
    op_name,
    rewrite,
    same_structure,
)
from lepton_tvm.passes.base import Pass, PassReport

__all__ = [
    "assert_close",
    "check_pass",
    "count",
    "f32",
    "graph",
    "named",
    "noise",
    "run",
    "skipped",
]

Shape = tuple[int, ...]


def graph(body: Callable[..., Any], **inputs: Shape | tuple[Shape, str]) -> tvm.IRModule:
    """A module whose `main` returns `body(*inputs)`; a list of expressions is several outputs.

    An input is its shape (float32) or (shape, dtype).
    """
    params = []
    for name, spec in inputs.items():
        shape, dtype = spec if spec and isinstance(spec[0], tuple) else (spec, "float32")
        params.append(relax.Var(name, relax.TensorType(shape, dtype)))
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            made = body(*params)
            out = builder.emit_output(relax.Tuple(made) if isinstance(made, list) else made)
        builder.emit_func_output(out)
    return builder.get()


def named(mod: tvm.IRModule, op: str) -> list[relax.VarBinding]:
    """The bindings of one op, such as `nn.conv2d`, in order."""
    return [b for b in bindings_of(main_of(mod)) if op_name(b.value) == f"relax.{op}"]


def count(mod: tvm.IRModule, op: str) -> int:
    """How often an op stands in `main`."""
    return len(named(mod, op))


def f32(values: npt.ArrayLike) -> Array:
    """A float32 array."""
    return np.asarray(values, dtype=np.float32)


def noise(*shape: int, seed: int = 0) -> Expr:
    """A float32 constant of seeded normal noise."""
    return constant(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def check_pass(
    p: Pass, before: tvm.IRModule, expected: tvm.IRModule | None = None
) -> tuple[tvm.IRModule, PassReport]:
    """Run `p`: input untouched, output well formed, as expected, and a second run changes nothing.

    Without `expected` the structure is not compared.
    """
    untouched = tvm.ir.load_json(tvm.ir.save_json(before))
    after, report = p(before)
    assert same_structure(before, untouched), "the pass changed its input"
    relax.analysis.well_formed(after)
    if expected is not None:
        wanted, _ = rewrite(expected, lambda g, var, value: None)  # drops aliases as passes do
        tvm.ir.assert_structural_equal(after, wanted, map_free_vars=True)
    again, second = p(after)
    assert same_structure(again, after), "the pass is not idempotent"
    assert second.changed == 0
    return after, report


def skipped(report: PassReport) -> list[str]:
    """The reasons in a report."""
    return [s.reason for s in report.skipped]


def run(mod: tvm.IRModule, *inputs: Array) -> list[Array]:
    """Compile with TVM's stock pipeline and run once; none of our code takes part."""
    executable = tvm.compile(mod, tvm.target.Target("llvm"))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    out = machine["main"](*[tvm.runtime.tensor(np.ascontiguousarray(x)) for x in inputs])
    outs = [out] if hasattr(out, "numpy") else list(out)
    return [o.numpy() for o in outs]


def assert_close(got: Sequence[Array], want: Sequence[Array], terms: int) -> None:
    """Equal up to the rounding of `terms` float32 operations one after the other, twice over."""
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        size = max(float(np.abs(b).max(initial=0.0)), 1.0)
        bound = 2 * terms * float(np.finfo(np.float32).eps) * size
        assert float(np.abs(a.astype(np.float64) - b).max(initial=0.0)) <= bound
