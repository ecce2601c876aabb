"""Calling a loaded model: values, checks of what goes in, and who owns what comes out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_tvm import runtime
from lepton_tvm.errors import InputError
from tests.support import toy_artifact as toy

X = np.random.default_rng(1).standard_normal((2, 8)).astype("float32")
Y = np.maximum(X @ toy.WEIGHT, 0)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> runtime.Net:
    path = tmp_path_factory.mktemp("net") / "model.so"
    toy.write(path)
    return runtime.load(path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> runtime.Net:
    path = tmp_path_factory.mktemp("net") / "pair.so"
    toy.write(path, toy.two_by_two())
    return runtime.load(path)


def test_array_or_dict_in_array_out(net: runtime.Net) -> None:
    np.testing.assert_allclose(net(X), Y, rtol=1e-5)
    np.testing.assert_array_equal(net({"x": X}), net(X))


def test_several_outputs_come_by_name(pair: runtime.Net) -> None:
    a, b = np.arange(3, dtype="float32"), np.array([4, 5, 6], "float32")
    out = pair({"b": b, "a": a})
    assert list(out) == ["sum", "product"]
    np.testing.assert_array_equal(out["sum"], a + b)
    np.testing.assert_array_equal(out["product"], a * b)


@pytest.mark.parametrize(
    "x",
    [
        np.asfortranarray(X),
        np.repeat(X, 2, axis=1)[:, ::2],
        np.concatenate([np.zeros(1, "float32"), X.ravel()])[1:].reshape(2, 8),
        np.broadcast_to(X, (2, 8)),
    ],
    ids=["fortran", "strided", "unaligned", "read-only"],
)
def test_any_memory_layout_is_taken(net: runtime.Net, x: Any) -> None:
    np.testing.assert_allclose(net(x), Y, rtol=1e-5)


def test_results_belong_to_the_caller(net: runtime.Net, tmp_path: Path) -> None:
    first = net(X)
    kept = first.copy()
    net(X * 2)
    np.testing.assert_array_equal(first, kept)
    first[:] = 7
    np.testing.assert_allclose(net(X), Y, rtol=1e-5)
    toy.write(tmp_path / "view.so", toy.view())
    view = runtime.load(tmp_path / "view.so")
    x = np.arange(6, dtype="int32").reshape(2, 3)
    out = view(x)
    x[:] = 0
    np.testing.assert_array_equal(out, np.arange(6))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (X[:1], r"'x' has shape \[1, 8\], the model takes \[2, 8\]"),
        (X.astype("float64"), r"dtype float64, the model takes float32; .*\.astype\('float32'\)"),
        ({"z": X}, "missing x; unknown z; the model takes x"),
        ({"x": X, "label": X}, "unknown label"),
        ({}, "missing x"),
    ],
)
def test_wrong_inputs_are_named(net: runtime.Net, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        net(given)


def test_bare_array_for_two_inputs(pair: runtime.Net) -> None:
    with pytest.raises(InputError, match=r"takes 2 inputs \(a, b\): give a dict"):
        pair(np.zeros(3, "float32"))


def test_many_threads_share_a_net(net: runtime.Net) -> None:
    xs = [X * (i + 1) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(net, xs))
    for x, y in zip(xs, results, strict=True):
        np.testing.assert_allclose(y, np.maximum(x @ toy.WEIGHT, 0), rtol=1e-5)


def test_timing_gives_raw_samples(net: runtime.Net) -> None:
    samples = net.time(X, repeat=4, number=2)
    assert len(samples) == 4
    assert all(s > 0 for s in samples)
    assert net.timer()(3) > 0
    with pytest.raises(InputError, match="number must be at least 1"):
        net.timer()(0)
    with pytest.raises(InputError, match="has shape"):
        net.timer(X[:1])


def test_prints_well(net: runtime.Net) -> None:
    assert repr(net) == "Net('toy', x[2, 8] -> y[2, 4], float32, avx2)"
    assert net.manifest["name"] == "toy"
