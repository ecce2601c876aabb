"""Ops on lines become ops on images of height 1."""

from __future__ import annotations

import numpy as np
import pytest
from tvm.relax import op

from lepton_tvm.ir.graph import Expr
from lepton_tvm.passes.graph.canonicalize.canonicalize import Canonicalize
from tests.support.graphs import assert_close, check_pass, count, graph, named, noise, run


@pytest.mark.parametrize("kind", ["conv", "transposed", "max", "avg"])
def test_one_dimension_becomes_two(kind: str) -> None:
    def body(x: Expr) -> Expr:
        if kind == "conv":
            return op.nn.conv1d(x, noise(6, 2, 5), 2, (1, 2), 2, groups=2)
        if kind == "transposed":
            return op.nn.conv1d_transpose(x, noise(4, 3, 5), 2, (1, 2), 1, 1, groups=2)
        pool = op.nn.max_pool1d if kind == "max" else op.nn.avg_pool1d
        return pool(x, 3, 2, (1, 0))

    before = graph(body, x=(2, 4, 21))
    after, _ = check_pass(Canonicalize(), before)
    two = {
        "conv": "nn.conv2d",
        "transposed": "nn.conv2d_transpose",
        "max": "nn.max_pool2d",
        "avg": "nn.avg_pool2d",
    }
    assert count(after, two[kind]) == 1
    x = np.random.default_rng(0).normal(size=(2, 4, 21)).astype(np.float32)
    assert_close(run(after, x), run(before, x), terms=10)


def test_a_network_of_one_dimension_keeps_its_biases_and_few_reshapes() -> None:
    def body(x: Expr) -> Expr:
        y = op.nn.relu(op.add(op.nn.conv1d(x, noise(6, 4, 3)), noise(1, 6, 1, seed=1)))
        y = op.nn.max_pool1d(y, 2, 2)
        y = op.multiply(op.sigmoid(op.nn.conv1d(y, noise(5, 6, 3))), noise(1, 5, 1, seed=2))
        return op.mean(y, [2])

    before = graph(body, x=(2, 4, 21))
    after, _ = check_pass(Canonicalize(), before)
    assert count(after, "reshape") == 2  # one in, one out
    first, second = named(after, "nn.conv2d")
    add = named(after, "add")[0].value
    assert add.args[0].same_as(first.var)
    assert not second.var.same_as(first.var)
    x = np.random.default_rng(0).normal(size=(2, 4, 21)).astype(np.float32)
    assert_close(run(after, x), run(before, x), terms=64)
