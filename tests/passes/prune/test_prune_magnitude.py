"""Magnitude pruning: exact counts, ties, what is refused and what is left alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tvm import relax

from lepton_tvm.errors import InputError
from lepton_tvm.ir.graph import Array, Expr, bindings_of, const_array, main_of, same_structure
from lepton_tvm.passes.prune.prune_magnitude import NO_SPEED_NOTE, PruneMagnitude, keep_mask
from tests.support.networks import Net, build, image, run

FLOATS = st.floats(-8, 8, width=32)
ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=6), elements=FLOATS)


def network(n: Net, x: Expr) -> Expr:
    x = n.op("relu", n.conv(x, 16))
    x = n.op("relu", n.conv(x, 16, groups=16))
    return n.head(n.op("relu", n.conv(x, 8, 1)))


def weights(mod: object) -> dict[str, Array]:
    found = {}
    for binding in bindings_of(main_of(mod)):
        if binding.var.name.startswith(("conv2d", "matmul")):
            array = const_array(binding.value.args[1])
            assert array is not None
            found[binding.var.name] = array
    return found


@given(values=ARRAYS, sparsity=st.floats(0.01, 0.99))
def test_the_mask_drops_exactly_the_smallest(values: Array, sparsity: float) -> None:
    keep = keep_mask(values, sparsity)
    count = math.floor(sparsity * values.size + 0.5)
    assert int((~keep).sum()) == count
    if 0 < count < values.size:
        assert np.abs(values[~keep]).max() <= np.abs(values[keep]).min()


@given(values=ARRAYS, sparsity=st.floats(0.01, 0.99))
def test_more_sparsity_never_brings_a_weight_back(values: Array, sparsity: float) -> None:
    assert not (keep_mask(values, min(0.995, sparsity * 1.3)) & ~keep_mask(values, sparsity)).any()


def test_among_equal_values_the_earlier_goes() -> None:
    values = np.array([1, -1, 1, 0.5, -1], "float32")
    assert keep_mask(values, 0.6).tolist() == [False, False, True, False, True]


@settings(max_examples=15, deadline=None)
@given(sparsity=st.floats(0.02, 0.98), seed=st.integers(0, 99))
def test_sparsity_is_reached_exactly_over_the_model_and_per_layer(
    sparsity: float, seed: int
) -> None:
    mod = build(network, seed=seed)
    for scope in ("global", "layer"):
        pruned, report = PruneMagnitude(sparsity=sparsity, scope=scope)(mod)
        arrays = weights(pruned)
        zeros = sum(int((a == 0).sum()) for a in arrays.values())
        if scope == "global":
            assert zeros == math.floor(sparsity * sum(a.size for a in arrays.values()) + 0.5)
        else:
            for array in arrays.values():
                assert int((array == 0).sum()) == math.floor(sparsity * array.size + 0.5)
        assert dict(report.numbers)["zeros_after"] == zeros


def test_threshold_zeroes_what_is_below_and_nothing_else() -> None:
    mod = build(network)
    before = weights(mod)
    original = mod.clone()
    pruned, report = PruneMagnitude(threshold=0.1)(mod)
    assert same_structure(mod, original), "the input module was changed"
    for name, array in weights(pruned).items():
        expected = np.where(np.abs(before[name]) < np.float32(0.1), 0, before[name])
        np.testing.assert_array_equal(array, expected)
        zeros = int((array == 0).sum())
        assert any(f"{name}: {zeros} of {array.size} weights" in note for note in report.notes)
    assert report.notes[-1] == NO_SPEED_NOTE
    assert report.changed == 4
    again, second = PruneMagnitude(threshold=0.1)(pruned)
    assert same_structure(again, pruned)
    assert second.changed == 0


def test_the_pruned_model_runs_with_its_zeros() -> None:
    mod = build(lambda n, x: n.bias(n.emit("matmul", relax.op.matmul(x, _ramp()))), (2, 4))
    pruned, _ = PruneMagnitude(threshold=0.5)(mod)
    x = image(mod)
    bias = run(mod, x) - x @ _ramp().value.numpy()
    ramp = _ramp().value.numpy()
    expected = x @ np.where(np.abs(ramp) < 0.5, 0, ramp) + bias
    np.testing.assert_allclose(run(pruned, x), expected, rtol=1e-5, atol=1e-5)


def _ramp() -> Expr:
    return relax.const(np.linspace(-1, 1, 12, dtype="float32").reshape(4, 3))


def test_a_layer_that_lost_everything_is_named() -> None:
    _, report = PruneMagnitude(threshold=100.0)(build(network))
    assert (
        "conv2d_0: 1152 of 1152 weights are zero (100.0%); the layer now gives only its bias"
        in (report.notes)
    )


def test_skipped_layers_and_products_of_activations_are_reported() -> None:
    def make(n: Net, x: Expr) -> Expr:
        x = n.op("reshape", n.conv(x, 16), (36, 16))
        return n.op("matmul", x, n.op("permute_dims", x))

    mod = build(make)
    pruned, report = PruneMagnitude(sparsity=0.5, skip=("conv2d_0",))(mod)
    assert [(s.op, s.name, s.reason) for s in report.skipped] == [
        ("relax.nn.conv2d", "conv2d_0", "named in skip"),
        ("relax.matmul", "matmul_0", "has no constant weight: both inputs are computed"),
    ]
    assert report.changed == 0
    np.testing.assert_array_equal(weights_of_conv(pruned), weights_of_conv(mod))


def weights_of_conv(mod: object) -> Array:
    array = const_array(bindings_of(main_of(mod))[0].value.args[1])
    assert array is not None
    return array


def test_integer_weights_are_left_alone() -> None:
    def make(n: Net, x: Expr) -> Expr:
        weight = relax.const(np.ones((8, 4), "int8"))
        return n.op("matmul", n.op("astype", x, "int8"), weight, out_dtype="int32")

    _, report = PruneMagnitude(sparsity=0.5)(build(make))
    assert report.skipped[0].reason == "its weight is int8, not float"


def test_a_shared_kernel_counts_once() -> None:
    def make(n: Net, x: Expr) -> Expr:
        weight = relax.const(n.array(8, 8))
        x = n.emit("matmul", relax.op.matmul(x, weight))
        return n.emit("matmul", relax.op.matmul(x, weight))

    pruned, report = PruneMagnitude(sparsity=0.5)(build(make, (2, 8)))
    assert dict(report.numbers)["weights"] == 64
    first, second = weights(pruned).values()
    np.testing.assert_array_equal(first, second)
    assert int((first == 0).sum()) == 32


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    def make(n: Net, x: Expr) -> Expr:
        weight = n.array(8, 4)
        weight[3, 2] = bad
        return n.emit("matmul", relax.op.matmul(x, relax.const(weight)))

    message = r"cannot prune 'matmul_0' \(relax.matmul\): 1 of the 32 values of its weight \[8, 4\]"
    with pytest.raises(InputError, match=message):
        PruneMagnitude(sparsity=0.5)(build(make, (2, 8)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give exactly one of threshold= and sparsity="),
        ({"threshold": 0.1, "sparsity": 0.5}, "give exactly one of threshold= and sparsity="),
        ({"threshold": 0.0}, r"threshold is 0\.0, but must be a positive number"),
        ({"threshold": math.inf}, "threshold is inf, but must be a positive number"),
        ({"sparsity": 1.0}, r"sparsity is 1\.0, but must be between 0 and 1"),
        ({"sparsity": -0.2}, r"sparsity is -0\.2, but must be between 0 and 1"),
        ({"sparsity": math.nan}, "sparsity is nan, but must be between 0 and 1"),
        ({"sparsity": 0.5, "scope": "group"}, "unknown pruning scope 'group'; known: global"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PruneMagnitude(**options)  # type: ignore[arg-type]
