"""The arithmetic of quantization: bounds that hold for all inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_tvm.passes.quantize import qparams as qp

finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)
ranges = st.tuples(finite, finite).map(sorted)


@given(ranges, st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_error_is_at_most_half_a_step_inside_the_range(
    bounds: list[float], shares: list[float]
) -> None:
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    params = qp.activation_qparams(*bounds)
    x = np.array([low + s * (high - low) for s in shares], np.float32)
    error = np.abs(qp.dequantize(qp.quantize(x, params), params) - x)
    rounding = 1e-6 * max(abs(low), abs(high)) + 1e-20  # of float32 itself
    if params.scale > qp.SCALE_MIN and high > low:
        assert error.max() <= params.scale / 2 + rounding


@given(ranges)
def test_zero_is_exact(bounds: list[float]) -> None:
    params = qp.activation_qparams(*bounds)
    zero = qp.quantize(np.zeros(1, np.float32), params)
    assert zero[0] == params.zero_point
    assert qp.dequantize(zero, params)[0] == 0.0


@given(ranges)
def test_every_code_survives_a_round_trip(bounds: list[float]) -> None:
    params = qp.activation_qparams(*bounds)
    codes = np.arange(256, dtype=np.uint8)
    assert np.array_equal(qp.quantize(qp.dequantize(codes, params), params), codes)


def test_a_constant_zero_tensor_has_a_usable_scale() -> None:
    assert qp.activation_qparams(0.0, 0.0) == qp.QParams(1.0, 0)


def test_a_tiny_range_keeps_the_scale_away_from_zero() -> None:
    assert qp.activation_qparams(0.0, 1e-30).scale == pytest.approx(qp.SCALE_MIN)


def test_values_outside_saturate() -> None:
    params = qp.activation_qparams(-1.0, 1.0)
    assert qp.quantize(np.array([-9e9, 9e9], np.float32), params).tolist() == [0, 255]


@pytest.mark.parametrize("bounds", [(0.0, np.inf), (np.nan, 1.0)])
def test_a_range_must_be_finite(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="not finite"):
        qp.activation_qparams(*bounds)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_weights_err_by_at_most_half_a_step_per_channel(k: int, n: int, seed: int) -> None:
    weight = np.random.default_rng(seed).normal(size=(3, 3, k, n)).astype(np.float32)
    scales = qp.weight_scales(weight, 3)
    w8 = qp.quantize_weight(weight, scales, 3)
    error = np.abs(w8.astype(np.float64) * scales - weight)
    assert (error <= scales.astype(np.float64) / 2 * (1 + 1e-6)).all()
    assert np.abs(w8).max(axis=(0, 1, 2)).tolist() == [127] * n


def test_an_all_zero_channel_is_zero_and_finite() -> None:
    weight = np.zeros((1, 1, 4, 2), np.float32)
    weight[..., 1] = 2.0
    scales = qp.weight_scales(weight, 3)
    assert scales[0] == scales[1] == np.float32(2.0 / 127)
    assert not qp.quantize_weight(weight, scales, 3)[..., 0].any()
    assert qp.weight_scales(np.zeros((4, 3), np.float32), 1).tolist() == pytest.approx(
        [1 / 127] * 3
    )


def test_a_tiny_weight_beside_a_large_bias_still_fits_int32() -> None:
    weight = np.full((4, 1), 1e-9, np.float32)
    bias = np.array([100.0], np.float32)
    scales = qp.weight_scales(weight, 1, bias, input_scale=0.01)
    w8 = qp.quantize_weight(weight, scales, 1)
    units = qp.integer_bias(bias, scales * np.float32(0.01), w8.sum(axis=0), 7)
    assert qp.fits_int32(units, np.abs(w8.astype(np.int64)).sum(axis=0))
    assert units[0] * scales[0] * 0.01 == pytest.approx(100.0, rel=1e-6)


def test_integer_bias_takes_the_zero_point_off() -> None:
    bias = qp.integer_bias(
        np.array([1.0, -0.26]), np.array([0.5, 0.1], np.float32), np.array([10, -3]), 4
    )
    assert bias.tolist() == [2 - 40, -3 + 12]


def test_fits_int32_counts_the_worst_input() -> None:
    magnitude = (2**31 - 1) // 255
    assert qp.fits_int32(np.array([0]), np.array([magnitude]))
    assert not qp.fits_int32(np.array([-(2**31 - 1) + 255 * magnitude - 1]), np.array([magnitude]))


@given(
    st.integers(-(2**20), 2**20),
    st.floats(1e-5, 1.0),
    ranges,
    st.tuples(st.floats(-50, 50), st.floats(-50, 50)).map(sorted),
)
def test_clipping_after_rounding_equals_clipping_before(
    acc: int, acc_scale: float, bounds: list[float], clip: list[float]
) -> None:
    params = qp.activation_qparams(bounds[0] - 1.0, bounds[1] + 1.0)
    multiplier = np.float32(acc_scale / params.scale)
    made = qp.requantize(
        np.array([acc], np.int32), multiplier, params, qp.requantize_bounds(params, *clip)
    )
    real = min(max(acc * acc_scale, clip[0]), clip[1])
    expected = qp.quantize(np.array([real], np.float32), params)
    assert abs(int(made[0]) - int(expected[0])) <= 1  # a tie may fall either way in float32
    low, high = qp.quantize(np.array(clip, np.float32), params)
    assert low <= made[0] <= high
