"""Ways to write an idea, and the one that canonical form has for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, topi
from tvm.relax import op

from lepton_tvm.ir.graph import Expr, constant
from tests.support.graphs import f32, noise

PICTURE = (1, 4, 6, 5)
C = f32([1.5, -2.0, 0.5, 3.0]).reshape(1, 4, 1, 1)


def emitted(function: Callable[..., Any], *args: Any) -> Callable[[Expr], Expr]:
    """The importer's way to write an op: a PrimFunc, called."""
    return lambda x: relax.BlockBuilder.current().emit_te(function, x, *args)


def chained(*steps: Callable[[Expr], Expr]) -> Callable[[Expr], Expr]:
    def body(x: Expr) -> Expr:
        for step in steps:
            x = relax.BlockBuilder.current().normalize(step(x))
        return x

    return body


def conv(x: Expr, **kwargs: Any) -> Expr:
    return op.nn.conv2d(x, noise(3, 4, 3, 3), **kwargs)


CASES: dict[str, tuple[Callable[[Expr], Expr], Callable[[Expr], Expr]]] = {
    "relu6 as two PrimFuncs": (
        chained(emitted(topi.maximum, 0.0), emitted(topi.minimum, 6.0)),
        lambda x: op.clip(x, 0.0, 6.0),
    ),
    "the order of bounds does not matter": (
        chained(emitted(topi.minimum, 6.0), emitted(topi.maximum, 0.0)),
        lambda x: op.clip(x, 0.0, 6.0),
    ),
    "maximum with 0 is relu": (emitted(topi.maximum, 0.0), op.nn.relu),
    "a bound given as constant": (
        lambda x: op.maximum(constant(np.float32(0)), x),
        op.nn.relu,
    ),
    "clip of relu": (lambda x: op.clip(op.nn.relu(x), -1.0, 3.0), lambda x: op.clip(x, 0.0, 3.0)),
    "relu twice": (lambda x: op.nn.relu(op.nn.relu(x)), op.nn.relu),
    "relu6": (op.nn.relu6, lambda x: op.clip(x, 0.0, 6.0)),
    "intervals that do not meet": (
        lambda x: op.clip(op.clip(x, 0.0, 1.0), 4.0, 5.0),
        lambda x: op.clip(x, 4.0, 4.0),
    ),
    "one-sided bounds stay one-sided": (
        emitted(topi.minimum, 2.0),
        lambda x: op.minimum(x, constant(np.float32(2))),
    ),
    "zero pad goes into the convolution": (
        chained(emitted(topi.nn.pad, [0, 0, 1, 2], [0, 0, 3, 0], 0.0), conv),
        lambda x: conv(x, padding=[1, 2, 3, 0]),
    ),
    "pad with a value stays": (
        chained(emitted(topi.nn.pad, [0, 0, 1, 2], [0, 0, 3, 0], 0.5), conv),
        lambda x: conv(op.nn.pad(x, [0, 0, 0, 0, 1, 3, 2, 0], "constant", 0.5)),
    ),
    "reflect pad": (
        emitted(topi.nn.mirror_pad, [0, 0, 2, 1], [0, 0, 0, 3], "REFLECT"),
        lambda x: op.nn.pad(x, [0, 0, 0, 0, 2, 0, 1, 3], "reflect", 0.0),
    ),
    "replicate pad": (
        emitted(topi.nn.replicate_pad, [0, 0, 2, 1], [0, 0, 0, 3]),
        lambda x: op.nn.pad(x, [0, 0, 0, 0, 2, 0, 1, 3], "replicate", 0.0),
    ),
    "pad of nothing": (lambda x: op.nn.pad(op.exp(x), [0] * 8), op.exp),
    "bias as a reshaped constant": (
        lambda x: op.add(conv(x), op.reshape(noise(3), (1, 3, 1, 1))),
        lambda x: op.add(conv(x), constant(_array(noise(3)).reshape(1, 3, 1, 1))),
    ),
    "constants to the right": (
        lambda x: op.multiply(constant(C), op.add(constant(C), x)),
        lambda x: op.multiply(op.add(x, constant(C)), constant(C)),
    ),
    "constants of lower rank": (
        lambda x: op.multiply(x, constant(C[0])),
        lambda x: op.multiply(x, constant(C)),
    ),
    "one-element constants": (
        lambda x: op.multiply(x, constant(np.full((1, 1), 2, np.float32))),
        lambda x: op.multiply(x, constant(np.float32(2))),
    ),
    "subtract": (
        lambda x: op.subtract(x, constant(C)),
        lambda x: op.add(x, constant(-C)),
    ),
    "divide": (
        lambda x: op.divide(x, constant(C)),
        lambda x: op.multiply(x, constant((1 / C.astype(np.float64)).astype(np.float32))),
    ),
    "square": (
        lambda x: op.power(op.exp(x), constant(np.float32(2))),
        lambda x: _square(relax.BlockBuilder.current().emit(op.exp(x))),
    ),
    "square root": (lambda x: op.power(x, constant(np.float32(0.5))), op.sqrt),
    "neutral elements": (
        lambda x: op.exp(
            op.multiply(op.add(x, constant(np.float32(0))), constant(np.ones_like(C)))
        ),
        op.exp,
    ),
    "constants merge": (
        lambda x: op.add(op.add(x, constant(C)), constant(np.float32(1))),
        lambda x: op.add(x, constant(C + np.float32(1))),
    ),
    "squeeze and unsqueeze": (
        lambda x: op.exp(op.squeeze(op.expand_dims(x, [2]), [2])),
        op.exp,
    ),
    "flatten": (
        lambda x: op.flatten(x),
        lambda x: op.reshape(x, (120,)),
    ),
    "permutes meet": (
        lambda x: op.permute_dims(op.permute_dims(op.exp(x), [0, 2, 3, 1]), [0, 3, 1, 2]),
        op.exp,
    ),
    "permute of unit dims": (
        lambda x: op.permute_dims(op.mean(x, [2, 3], True), [0, 2, 3, 1]),
        lambda x: op.reshape(op.mean(x, [2, 3], True), (1, 1, 1, 4)),
    ),
    "reshape of unit dims moves above a permute": (
        lambda x: op.permute_dims(
            op.reshape(op.permute_dims(op.mean(x, [2], True), [0, 3, 1, 2]), (1, 5, 4)), [0, 2, 1]
        ),
        lambda x: op.reshape(op.mean(x, [2], True), (1, 4, 5)),
    ),
    "same cast, broadcast, slice, concat": (
        lambda x: op.concat(
            [
                op.strided_slice(
                    op.broadcast_to(op.astype(op.exp(x), "float32"), PICTURE), [2], [0], [6], [1]
                )
            ],
            1,
        ),
        op.exp,
    ),
    "average pool over everything": (
        lambda x: op.nn.avg_pool2d(x, (6, 5)),
        lambda x: op.mean(x, [2, 3], True),
    ),
    "adaptive average pool to one": (
        lambda x: op.nn.adaptive_avg_pool2d(x, 1),
        lambda x: op.mean(x, [2, 3], True),
    ),
    "reductions keep dims": (
        lambda x: op.max(x, [2, 3]),
        lambda x: op.reshape(op.max(x, [2, 3], True), (1, 4)),
    ),
    "shape as a tensor": (
        lambda x: op.multiply(
            x,
            op.astype(
                op.take(op.shape_to_tensor(op.shape_of(x)), relax.const(3, "int64"), 0), "float32"
            ),
        ),
        lambda x: op.multiply(x, constant(np.float32(5))),
    ),
    "take of one row": (
        lambda x: op.take(x, relax.const(4, "int64"), 2),
        lambda x: op.reshape(op.strided_slice(x, [2], [4], [5], [1]), (1, 4, 5)),
    ),
    "where with one answer": (
        lambda x: op.exp(op.where(constant(np.ones((), bool)), x, op.abs(x))),
        op.exp,
    ),
    "dropout": (lambda x: relax.TupleGetItem(emit(op.nn.dropout(op.exp(x))), 0), op.exp),
}


def emit(expr: Expr) -> Expr:
    return relax.BlockBuilder.current().emit(expr)


def _array(expr: Expr) -> Any:
    return expr.value.numpy()


def _square(x: Expr) -> Expr:
    return op.multiply(x, x)
