"""Selection and repair from data: closed forms against brute force, and exact repairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tvm
from tvm import relax

from lepton_tvm.ir.graph import Array, Expr
from lepton_tvm.passes.prune.channels.groups import find_groups
from lepton_tvm.passes.prune.channels.moments import (
    ROWS_PER_SAMPLE,
    Moments,
    Reader,
    find_readers,
    patches,
)
from lepton_tvm.passes.prune.channels.propagate import propagate
from lepton_tvm.passes.prune.channels.reconstruct import repair, repair_cost
from lepton_tvm.passes.prune.channels.shrink import kernels
from tests.support.networks import Net, build, run

CONVOLUTIONS = [
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((3, 3), (2, 2), (0, 1, 1, 0), (1, 1)),
    ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((5, 1), (1, 2), (2, 0, 2, 0), (1, 1)),
    ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
]


@pytest.mark.parametrize(("kernel", "strides", "padding", "dilation"), CONVOLUTIONS)
def test_patches_times_the_kernel_is_the_convolution(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, ...],
    dilation: tuple[int, int],
) -> None:
    weight = np.random.default_rng(3).standard_normal((*kernel, 4, 5)).astype("float32")

    def make(n: Net, x: Expr) -> Expr:
        return relax.op.nn.conv2d(
            x,
            relax.const(weight),
            strides=strides,
            padding=padding,
            dilation=dilation,
            data_layout="NHWC",
            kernel_layout="HWIO",
        )

    x = np.random.default_rng(4).standard_normal((2, 7, 8, 4)).astype("float32")
    expected = run(build(make, x.shape), x)
    rows = patches(x, kernel, strides, padding, dilation)
    got = (rows @ weight.reshape(-1, 5)).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_limit_takes_rows_from_all_over_the_picture() -> None:
    x = np.arange(32 * 32, dtype="float32").reshape(1, 32, 32, 1)
    rows = patches(x, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), limit=64)
    assert rows.shape == (64, 1)
    for coordinate in (rows % 32, rows // 32):
        per_quarter = np.histogram(coordinate, bins=4, range=(0, 32))[0]
        assert per_quarter.min() >= 8


def test_moments_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 6)).astype("float32") + 2
    moments = Moments(6)
    for part in np.split(rows, 3):
        moments.add(part)
    assert moments.count == 300
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T, bias=True), atol=1e-4)


def linear(n: Net, x: Expr) -> Expr:
    """Two dense layers: [n, 8] -> 16 hidden -> 4."""
    return n.dense(n.op("relu", n.dense(x, 6)), 4)


def watch(mod: tvm.IRModule, rows: Array) -> tuple[Reader, Moments, Array]:
    flow = propagate(mod)
    reader = find_readers(mod, flow)[-1]
    moments = Moments(len(reader.columns))
    moments.add(rows)
    return reader, moments, kernels(mod, flow)[reader.weight.var]


def best_error(hidden: Array, weight: Array, removed: tuple[int, ...]) -> float:
    """Squared error of the best linear fit with bias that does without `removed`, by lstsq."""
    kept = [i for i in range(hidden.shape[1]) if i not in removed]
    design = np.concatenate([hidden[:, kept], np.ones((len(hidden), 1))], axis=1)
    target = hidden @ weight
    fit, *_ = np.linalg.lstsq(design, target, rcond=None)
    return float(np.square(target - design @ fit).sum() / len(hidden))


def test_the_order_is_the_greedy_order_of_the_true_errors() -> None:
    mod = build(linear, (8, 8))
    rng = np.random.default_rng(5)
    hidden = np.maximum(rng.standard_normal((400, 6)) @ rng.standard_normal((6, 6)), 0)
    hidden = hidden.astype("float32")
    reader, moments, weight = watch(mod, hidden)
    group = next(g for g in find_groups(propagate(mod)) if g.name == "matmul_0")
    scores = repair_cost([(reader, moments)], {reader.weight.var: weight}, group)
    assert scores is not None
    removed: tuple[int, ...] = ()
    expected = []
    for _ in range(5):
        left = [i for i in range(6) if i not in removed]
        costs = {i: best_error(hidden, weight, (*removed, i)) for i in left}
        expected.append(min(left, key=costs.__getitem__))
        removed = (*removed, expected[-1])
    assert np.argsort(scores).tolist()[:5] == expected


@pytest.mark.parametrize("removed", list(itertools.combinations(range(6), 2))[::4])
def test_the_repair_is_the_least_squares_fit(removed: tuple[int, ...]) -> None:
    mod = build(linear, (8, 8))
    hidden = np.random.default_rng(6).gamma(2.0, size=(500, 6)).astype("float32")
    hidden[:, 5] = hidden[:, 0] - 0.5 * hidden[:, 1] + 1
    reader, moments, weight = watch(mod, hidden)
    made = repair(reader, moments, weight, reader.columns[list(removed)])
    assert made is not None
    new, offset = made
    assert not new[list(removed)].any()
    error = np.square(hidden @ weight - hidden @ new - offset).sum() / len(hidden)
    best = best_error(hidden, weight, removed)
    # the ridge costs at most its own size times the squared weights
    assert best - 1e-6 <= error <= best + 1e-2 * float(np.square(weight).sum())


def test_with_too_few_rows_only_the_mean_moves() -> None:
    mod = build(linear, (8, 8))
    hidden = np.random.default_rng(7).random((4, 6)).astype("float32")
    reader, moments, weight = watch(mod, hidden)
    made = repair(reader, moments, weight, reader.columns[[2]])
    assert made is not None
    np.testing.assert_array_equal(made[0], np.where(np.arange(6)[:, None] == 2, 0, weight))
    np.testing.assert_allclose(made[1], hidden[:, 2].mean() * weight[2], rtol=1e-5)
    group = next(g for g in find_groups(propagate(mod)) if g.name == "matmul_0")
    assert repair_cost([(reader, moments)], {reader.weight.var: weight}, group) is None


def test_nothing_to_repair_where_nothing_is_read() -> None:
    mod = build(linear, (8, 8))
    reader, moments, weight = watch(mod, np.ones((50, 6), "float32"))
    assert repair(reader, moments, weight, np.array([10_000])) is None


def test_wide_kernels_are_watched_by_single_positions() -> None:
    mod = build(lambda n, x: n.head(n.conv(n.conv(x, 160), 8)))
    flow = propagate(mod)
    reader = find_readers(mod, flow)[0]
    assert not reader.whole
    assert len(reader.columns) == 160
    kernel = kernels(mod, flow)[reader.weight.var]
    np.testing.assert_array_equal(reader.kernel(reader.matrix(kernel), kernel.shape), kernel)
    rows = reader.rows(np.ones((1, 40, 40, 160), "float32"))
    assert rows.shape == (ROWS_PER_SAMPLE, 160)
    moments = Moments(160)
    moments.add(np.ones((400, 160), "float32"))
    made = repair(reader, moments, kernel, reader.columns[:16])
    assert made is not None
    # a constant channel moves wholly into the offset, all nine taps of it
    np.testing.assert_allclose(
        made[1] + made[0].sum(axis=(0, 1, 2)), kernel.sum(axis=(0, 1, 2)), rtol=1e-3, atol=1e-3
    )
