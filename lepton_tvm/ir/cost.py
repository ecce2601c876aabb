"""Multiply-adds and parameters of a Relax module, counted from its types alone."""

from __future__ import annotations

import math

import tvm
from tvm import relax

from lepton_tvm.errors import CompileError
from lepton_tvm.ir.graph import Expr, bindings_of, is_constant, main_of, op_name, shape_of
from lepton_tvm.ir.ops import COLUMNS, OPS, named

__all__ = ["MACS_OPS", "call_macs", "macs", "macs_by_name", "params", "weight_bytes"]

_Shape = tuple[int, ...]

MACS_OPS = named("macs", *COLUMNS["macs"])
"""Names of the ops whose multiply-adds are counted; all others count as zero."""


def macs(module: tvm.IRModule) -> int:
    """Multiply-adds of one run of `main`, in any precision.

    Counted: conv1d/2d/3d (also depthwise, grouped), transposed conv, matmul. Elementwise ops,
    pooling and reductions count as zero, as usual in the literature.
    """
    return sum(count for _, count in macs_by_name(module))


def macs_by_name(module: tvm.IRModule) -> tuple[tuple[str, int], ...]:
    """(name of the result, multiply-adds) of every op that has any, in graph order."""
    counted = ((b.var.name, call_macs(b.value)) for b in bindings_of(main_of(module)))
    return tuple((name, count) for name, count in counted if count)


def call_macs(call: Expr) -> int:
    """Multiply-adds of one bound Relax value.

    0 when it is none of `MACS_OPS` or a shape is not static.
    """
    op = OPS.get(op_name(call))
    if op is None or not op.macs:
        return 0
    try:
        data, weight, out = (shape_of(e) for e in (call.args[0], call.args[1], call))
    except CompileError:
        return 0
    return _COUNTS[op.macs](call, data, weight, out)


def _conv(call: Expr, data: _Shape, weight: _Shape, out: _Shape) -> int:
    """Kernel [.., I/groups, O]: every output element reads I/groups * KH * KW."""
    made = weight[str(call.attrs.kernel_layout).index("O")]
    return math.prod(out) * (math.prod(weight) // made)


def _conv_transpose(call: Expr, data: _Shape, weight: _Shape, out: _Shape) -> int:
    """Kernel [I, O/groups, ..]: every input element is spread over O/groups * KH * KW."""
    read = weight[str(call.attrs.kernel_layout).index("I")]
    return math.prod(data) * (math.prod(weight) // read)


def _matmul(call: Expr, data: _Shape, weight: _Shape, out: _Shape) -> int:
    return math.prod(out) * data[-1]


# The words of the column `macs` of `ir/ops.py`.
_COUNTS = {"conv": _conv, "conv_transpose": _conv_transpose, "matmul": _matmul}


def params(module: tvm.IRModule) -> int:
    """Elements of all constants of `main` that are tensors (rank 1 or more); shared ones once."""
    return sum(math.prod(shape) for shape, _ in _constants(module))


def weight_bytes(module: tvm.IRModule) -> int:
    """Bytes of the same constants."""
    return sum(math.prod(s) * tvm.DataType(d).itemsize for s, d in _constants(module))


def _constants(module: tvm.IRModule) -> list[tuple[tuple[int, ...], str]]:
    found: dict[Expr, tuple[tuple[int, ...], str]] = {}

    def visit(expr: Expr) -> None:
        if is_constant(expr) and len(expr.value.shape):
            found[expr] = (tuple(int(d) for d in expr.value.shape), str(expr.value.dtype))

    relax.analysis.post_order_visit(main_of(module), visit)
    return list(found.values())
