"""Multiply-adds and parameters of a Relax module, counted from its types alone."""

from __future__ import annotations

import math

import tvm
from tvm import relax

from lepton_tvm.errors import CompileError
from lepton_tvm.ir.graph import Expr, bindings_of, is_constant, main_of, op_name, shape_of

__all__ = ["MACS_OPS", "call_macs", "macs", "macs_by_name", "params", "weight_bytes"]

_CONV = frozenset({"relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d"})
_CONV_TRANSPOSE = frozenset(
    {"relax.nn.conv1d_transpose", "relax.nn.conv2d_transpose", "relax.nn.conv3d_transpose"}
)
MACS_OPS = _CONV | _CONV_TRANSPOSE | {"relax.matmul"}
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
    name = op_name(call)
    if name not in MACS_OPS:
        return 0
    try:
        data, weight, out = (shape_of(e) for e in (call.args[0], call.args[1], call))
    except CompileError:
        return 0
    if name == "relax.matmul":
        return math.prod(out) * data[-1]
    layout = str(call.attrs.kernel_layout)
    if name in _CONV:  # kernel [.., I/groups, O]: every output element reads I/groups * KH * KW
        return math.prod(out) * (math.prod(weight) // weight[layout.index("O")])
    # kernel [I, O/groups, ..]: every input element is spread over O/groups * KH * KW
    return math.prod(data) * (math.prod(weight) // weight[layout.index("I")])


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
