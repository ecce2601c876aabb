"""Attention as exporters write it becomes two products without any copy of their operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import relax

from lepton_tvm.compiler import pipeline
from lepton_tvm.passes.lower.kernels.lower_kernels import LowerKernels
from lepton_tvm.targets import parse_target
from tests.support.graphs import check_pass, graph, run

op = relax.op


def attention(x: Any, heads: int, depth: int) -> Any:
    """Scaled dot products over the three parts of x [batch, tokens, 3 * heads * depth]."""
    batch, tokens, _ = (int(d) for d in x.ty.shape.values)
    split = op.reshape(x, (batch, tokens, 3, heads, depth))
    parts = op.split(op.permute_dims(split, [2, 0, 3, 1, 4]), 3, 0)
    q, k, v = (op.squeeze(parts[i], [0]) for i in range(3))
    scores = op.matmul(q, op.permute_dims(k, [0, 1, 3, 2]))
    weights = op.nn.softmax(op.multiply(scores, relax.const(depth**-0.5, "float32")), -1)
    return op.permute_dims(op.matmul(weights, v), [0, 2, 1, 3])


def reference(x: np.ndarray[Any, Any], heads: int, depth: int) -> Any:
    batch, tokens, _ = x.shape
    q, k, v = x.astype(np.float64).reshape(batch, tokens, 3, heads, depth).transpose(2, 0, 3, 1, 4)
    scores = np.exp(q @ k.swapaxes(-1, -2) * depth**-0.5)
    return ((scores / scores.sum(-1, keepdims=True)) @ v).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("tokens", [5, 17, 49, 64])
def test_attention_reads_the_projection_and_copies_nothing(tokens: int) -> None:
    mod = graph(lambda x: attention(x, 3, 8), x=(2, tokens, 72))
    lowered = pipeline.lower(mod, parse_target("native"))
    assert [k.op for k in lowered.kernels] == ["batch_matmul", "softmax", "batch_matmul"]
    x = np.random.default_rng(tokens).standard_normal((2, tokens, 72)).astype("float32")
    np.testing.assert_allclose(pipeline.run(mod, [x])[0], reference(x, 3, 8), atol=1e-5)


def broadcast(x: Any, y: Any) -> Any:
    return op.matmul(x, y)


def two_readers(x: Any, y: Any) -> Any:
    product = op.matmul(x, y)
    return [op.permute_dims(product, [0, 2, 1]), op.nn.relu(product)]


def columns_moved(x: Any, y: Any) -> Any:
    return op.permute_dims(op.matmul(x, y), [1, 2, 0])


def squeezed(x: Any, y: Any) -> Any:
    left = op.reshape(op.expand_dims(x, [0]), (3, 1, 6, 20))
    return op.matmul(left, op.reshape(op.permute_dims(y, [2, 1, 0]), (1, 1, 20, 10)))


CASES: list[tuple[Callable[..., Any], tuple[int, ...], tuple[int, ...]]] = [
    (broadcast, (3, 6, 20), (20, 5)),
    (broadcast, (6, 20), (3, 20, 5)),
    (broadcast, (2, 1, 6, 20), (1, 3, 20, 5)),
    (broadcast, (9, 20), (20, 33)),
    (two_readers, (3, 6, 20), (3, 20, 5)),
    (columns_moved, (3, 6, 20), (3, 20, 5)),
    (squeezed, (3, 6, 20), (10, 5, 4)),
]


@pytest.mark.parametrize(("body", "left", "right"), CASES)
def test_products_of_activations(
    body: Callable[..., Any], left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    mod = graph(body, x=left, y=right)
    _, report = check_pass(LowerKernels(parse_target("native")), mod)
    assert report.changed == 1
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(s).astype("float32") for s in (left, right)]
    for got, want in zip(pipeline.run(mod, inputs), run(mod, *inputs), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_few_rows_are_left_alone_and_reported() -> None:
    mod = graph(broadcast, x=(2, 1, 20), y=(2, 20, 50))
    _, report = LowerKernels(parse_target("native"))(mod)
    assert report.changed == 0
    assert "rows" in report.skipped[0].reason
