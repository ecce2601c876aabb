"""Ranges from running the float model: exact, streaming, in parts when activations are large."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from lepton_tvm.compiler import pipeline
from lepton_tvm.compression import calibrate as calibration
from lepton_tvm.compression.calibrate import collect_ranges
from lepton_tvm.errors import InputError
from lepton_tvm.ir.graph import same_structure
from lepton_tvm.model import Model
from tests.support.quantized_graphs import Array, Net, model_of, net


def _write(n: Net, x: Any) -> Any:
    return n.conv(n.relu(n.conv(x, 6, 3)), 2)


def _model() -> Model:
    return model_of(net(_write))


def _samples(count: int, batch: int = 1) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(batch, 8, 8, 4)).astype(np.float32)} for _ in range(count)]


def _activations(samples: list[dict[str, Array]], model: Model) -> dict[str, Array]:
    """What the tapped tensors really hold, all at once."""
    first = net(lambda n, x: n.relu(n.conv(x, 6, 3)), model.inputs[0].shape)
    relu = np.concatenate([pipeline.run(first, [s["x"]])[0] for s in samples])
    return {"x": np.concatenate([s["x"] for s in samples]), "relu_0": relu}


@pytest.mark.parametrize("batch", [1, 3])
def test_minmax_and_means_are_those_of_all_samples(batch: int) -> None:
    model = model_of(net(_write, (batch, 8, 8, 4)))
    samples = _samples(3, batch)
    ranges = collect_ranges(model, samples)
    everything = _activations(samples, model)
    assert set(ranges) == {"x", "relu_0"}
    for name, array in everything.items():
        assert ranges[name].low == pytest.approx(float(array.min()), rel=1e-5)
        assert ranges[name].high == pytest.approx(float(array.max()), rel=1e-5)
        assert ranges[name].count == array.size
        means = array.reshape(-1, array.shape[-1]).mean(axis=0)
        np.testing.assert_allclose(ranges[name].channel_mean, means, atol=1e-5)


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_other_methods_stay_inside_what_was_seen(method: str) -> None:
    ranges = collect_ranges(_model(), _samples(4), method=method, percentile=99.0)
    for found in ranges.values():
        assert found.smallest <= found.low <= 0.0 < found.high <= found.largest
    if method == "percentile":
        assert ranges["x"].high < ranges["x"].largest


def test_samples_stream_and_progress_counts_them() -> None:
    alive: list[int] = []
    done: list[int] = []

    def samples() -> Iterator[dict[str, Array]]:
        for sample in _samples(5):
            alive.append(len(done))
            yield sample

    collect_ranges(_model(), samples(), progress=done.append)
    assert done == [1, 2, 3, 4, 5]
    assert alive == [0, 1, 2, 3, 4]


def test_large_activations_are_taken_in_several_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = collect_ranges(_model(), _samples(2), tensors=["x", "conv2d_0", "relu_0", "conv2d_1"])
    made = []

    def executor(module: tvm.IRModule) -> Callable[[Sequence[Array]], list[Array]]:
        made.append(module)
        return pipeline.executor(module)

    monkeypatch.setattr(calibration, "_MEMORY", 1000)
    parts = collect_ranges(
        _model(),
        _samples(2),
        tensors=["x", "conv2d_0", "relu_0", "conv2d_1"],
        executor=executor,
    )
    assert len(made) == 3
    for name, found in whole.items():
        assert (parts[name].low, parts[name].high) == pytest.approx((found.low, found.high))


def test_the_model_is_untouched() -> None:
    model = _model()
    before = model.module.clone()
    collect_ranges(model, _samples(1))
    assert same_structure(model.module, before)


def test_only_inputs_need_no_run() -> None:
    def executor(module: tvm.IRModule) -> Callable[[Sequence[Array]], list[Array]]:
        raise AssertionError("nothing needs to be run")

    ranges = collect_ranges(_model(), _samples(1), tensors=["x"], executor=executor)
    assert set(ranges) == {"x"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "unknown calibrator 'magic'"),
        ({"tensors": ["relu_7"]}, "no tensor named 'relu_7'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        collect_ranges(_model(), _samples(1), **options)


def test_no_samples_are_refused() -> None:
    with pytest.raises(InputError, match="at least one sample"):
        collect_ranges(_model(), [])


def test_nan_inside_the_model_is_named() -> None:
    def write(n: Net, x: Any) -> Any:
        return n.conv(n.op(relax.op.log(n.op(relax.op.negative(n.op(relax.op.exp(x)))))), 2)

    with pytest.raises(InputError, match="computes NaN or infinity at 'log_0'"):
        collect_ranges(model_of(net(write)), _samples(1))
