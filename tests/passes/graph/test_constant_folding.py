from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tvm import relax

from lepton_tvm.ir.graph import Expr, const_array, constant
from lepton_tvm.passes.graph.canonicalize.constant_folding import EVALUATORS, fold_constant_call
from tests.support.graphs import f32, graph, run

op = relax.op
A = np.random.default_rng(0).uniform(0.5, 3, size=(2, 3, 4)).astype(np.float32)
B = np.random.default_rng(1).uniform(0.5, 3, size=(3, 1)).astype(np.float32)
UNITS = constant(f32([0.1, 0.25, 0.03])), constant(np.array([0, -5, 9], np.int8))

# One call per evaluator, checked against the op as TVM computes it.
CALLS: dict[str, Callable[[Expr, Expr], Expr]] = {
    "abs": lambda a, b: op.abs(op.negative(a)),
    "add": op.add,
    "astype": lambda a, b: op.astype(a, "int32"),
    "broadcast_to": lambda a, b: op.broadcast_to(b, (2, 3, 4)),
    "ceil": lambda a, b: op.ceil(a),
    "concat": lambda a, b: op.concat([a, a], axis=-1),
    "dequantize": lambda a, b: op.dequantize(op.astype(a, "int8"), *UNITS, axis=1),
    "divide": op.divide,
    "equal": lambda a, b: op.equal(a, a),
    "exp": lambda a, b: op.exp(a),
    "expand_dims": lambda a, b: op.expand_dims(a, [1]),
    "flatten": lambda a, b: op.flatten(a),
    "floor": lambda a, b: op.floor(a),
    "greater": op.greater,
    "isnan": lambda a, b: op.isnan(a),
    "less": op.less,
    "log": lambda a, b: op.log(a),
    "matmul": lambda a, b: op.matmul(a, op.permute_dims(a, [0, 2, 1])),
    "max": lambda a, b: op.max(a, [1]),
    "maximum": op.maximum,
    "mean": lambda a, b: op.mean(a, [0, 2], True),
    "min": lambda a, b: op.min(a),
    "minimum": op.minimum,
    "multiply": op.multiply,
    "negative": lambda a, b: op.negative(a),
    "permute_dims": lambda a, b: op.permute_dims(a),
    "power": op.power,
    "quantize": lambda a, b: op.quantize(a, *UNITS, axis=1, out_dtype="int8"),
    "reshape": lambda a, b: op.reshape(a, (4, 6)),
    "rsqrt": lambda a, b: op.rsqrt(a),
    "sqrt": lambda a, b: op.sqrt(a),
    "squeeze": lambda a, b: op.squeeze(b),
    "strided_slice": lambda a, b: op.strided_slice(a, [1, 2], [0, 1], [3, 4], [2, 2]),
    "subtract": op.subtract,
    "sum": lambda a, b: op.sum(a, [2]),
    "take": lambda a, b: op.take(a, relax.const([1, 0, 1], "int64"), 2),
    "where": lambda a, b: op.where(op.greater(a, b), a, b),
}


def folded(expr: Expr) -> Expr:
    """Fold `expr`, arguments first."""
    builder = relax.BlockBuilder()
    args = []
    for arg in expr.args:
        is_op = getattr(getattr(arg, "op", None), "name", "").startswith("relax.")
        args.append(folded(arg) if is_op else arg)
    call = builder.normalize(type(expr)(expr.op, args, expr.attrs, expr.ty_args))
    made = fold_constant_call(call)
    assert made is not None
    return made


def test_every_evaluator_is_tried() -> None:
    assert {f"relax.{name}" for name in CALLS} == set(EVALUATORS)


@pytest.mark.parametrize("name", CALLS)
def test_numpy_and_tvm_agree(name: str) -> None:
    made = folded(CALLS[name](constant(A), constant(B)))
    got = const_array(made)
    (want,) = run(graph(CALLS[name], a=A.shape, b=B.shape), A, B)
    assert got is not None
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    # one rounding each; exp, log and power are approximations on both sides
    np.testing.assert_allclose(got, want, rtol=1e-6)


def refused(expr: Expr) -> bool:
    return fold_constant_call(relax.BlockBuilder().normalize(expr)) is None


def test_what_is_not_folded() -> None:
    x = relax.Var("x", relax.TensorType((3, 1), "float32"))
    assert refused(op.add(x, constant(B)))
    assert refused(op.sin(constant(B)))
    assert refused(op.strided_slice(constant(A), [0], [1], [-3], [-1]))
    integers = constant(np.array([7, -7], np.int32))
    assert refused(op.divide(integers, constant(np.array(2, np.int32))))
    assert refused(op.power(integers, constant(np.array(-1, np.int32))))


def test_small_results_of_large_constants_are_folded() -> None:
    big = constant(np.ones((1 << 20, 4), np.float32))
    made = fold_constant_call(relax.BlockBuilder().normalize(op.sum(big, [0])))
    np.testing.assert_array_equal(const_array(made), f32([1 << 20] * 4))
