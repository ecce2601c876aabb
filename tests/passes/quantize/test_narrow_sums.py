"""Weights for CPUs without VNNI: their sums fit 16 bits, and the kernels for bytes take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from lepton_tvm.compiler import pipeline
from lepton_tvm.compression.quantize import config_for, quantization_notes, quantize
from lepton_tvm.ir import graph as g
from lepton_tvm.ir.graph import Array
from lepton_tvm.model import Model
from lepton_tvm.passes.quantize.config import QuantizeConfig
from lepton_tvm.passes.quantize.qparams import U8_MAX
from lepton_tvm.targets import parse_target
from tests.support.kernels import needs
from tests.support.quantized_graphs import Net, model_of, net


def _write(n: Net, x: Any) -> Any:
    y = n.relu(n.bias(n.conv(x, 16, 3, padding=1)))
    y = n.relu(n.bias(n.conv(y, 16, 3, padding=1, groups=16)))
    y = n.relu(n.bias(n.conv(y, 12, 5, padding=2, groups=2)))
    y = n.op(relax.op.mean(n.relu(n.conv(y, 24)), [1, 2]))
    return n.bias(n.dense(y, 5))


def _model() -> Model:
    return model_of(net(_write, (1, 8, 8, 3)))


def _data(rows: int = 8) -> Array:
    return np.random.default_rng(3).normal(size=(rows, 8, 8, 3)).astype(np.float32)


def _weights(model: Model) -> list[tuple[Array, bool]]:
    """The int8 weights of every anchor, and whether it is depthwise."""
    found = []
    for binding in g.bindings_of(g.main_of(model.module)):
        values = g.const_array(binding.value.args[0]) if hasattr(binding.value, "args") else None
        if values is not None and values.dtype == np.int8:
            found.append((values, values.shape[-2] == 1 and values.ndim == 4))
    return found


def _worst_sums(weight: Array, depthwise: bool) -> tuple[int, int]:
    """The extreme sums of 16 bits that activations 0 or 255 can make, written out in loops."""
    axis = 0 if depthwise else weight.ndim - 2
    taps = np.moveaxis(weight.astype(np.int64), axis, 0)
    taps = np.concatenate([taps, np.zeros((-len(taps) % 4, *taps.shape[1:]), np.int64)])
    together = 2 if not depthwise and len(taps) % 8 == 0 else 1
    low = high = 0
    # the second of two lines that share words of a 3x3 filter starts one row further down
    for shifted in (taps, np.roll(taps, 1, axis=0)) if depthwise else (taps,):
        for start in range(0, len(taps), 4 * together):
            for half in (0, 2):
                rows = [start + 4 * word + half + i for word in range(together) for i in (0, 1)]
                terms = shifted[rows] * U8_MAX
                high = max(high, int(np.maximum(terms, 0).sum(0).max()))
                low = min(low, int(np.minimum(terms, 0).sum(0).min()))
    return low, high


def test_no_activations_can_leave_16_bits() -> None:
    made = quantize(_model(), _data(), config=QuantizeConfig(sum_bits=16))
    weights = _weights(made)
    assert len(weights) == 5
    for weight, depthwise in weights:
        low, high = _worst_sums(weight, depthwise)
        assert low >= -(2**15)
        assert high < 2**15
        assert max(-low, high) > 2**15 * 0.9, "the range of the sums is not used"
    (note,) = quantization_notes(made)
    assert "16 bits hold the sums" in note
    assert any(np.abs(w).max() > 63 for w, _ in weights), "no more than seven bits"


def test_all_weights_of_8_bits_can_leave_them() -> None:
    weights = _weights(quantize(_model(), _data()))
    assert any(_worst_sums(w, d)[1] > 2**15 for w, d in weights)


def test_seven_bits() -> None:
    made = quantize(_model(), _data(), bit_width=7)
    weights = _weights(made)
    assert {int(np.abs(w).max()) for w, _ in weights} == {63}
    assert made.recipe[-1].options["weight_bits"] == 7
    assert quantization_notes(made) == ()


@pytest.mark.parametrize(
    ("target", "bits", "weights", "sums"),
    [
        (None, None, 8, 32),
        ("x86:vnni", None, 8, 32),
        ("x86:avxvnni", None, 8, 32),
        ("x86:avx2", None, 8, 16),
        ("x86:avx2", "auto", 8, 16),
        ("x86:avx512", None, 8, 16),
        ("x86:sse", None, 8, 16),
        ("x86:avx2", 8, 8, 32),
        ("x86:avx2", 7, 7, 32),
    ],
)
def test_the_target_decides(target: str | None, bits: Any, weights: int, sums: int) -> None:
    config = config_for(target, bits)
    assert (config.weight_bits, config.sum_bits) == (weights, sums)


@pytest.mark.parametrize("isa", ["sse", "avx2", "avx512"])
def test_kernels_for_the_target_multiply_bytes_and_equal_those_of_any_other(isa: str) -> None:
    needs(isa)
    model, x = _model(), _data(1)
    made = quantize(model, _data(), target=f"x86:{isa}")
    built = pipeline.build(made.module, f"x86:{isa}")
    (report,) = (r for r in built.reports if r.name == "lower-kernels")
    assert report.notes == ()
    got = relax.VirtualMachine(built.executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    want = pipeline.run(made.module, [x])[0]
    np.testing.assert_array_equal(got, want)


def test_kernels_that_must_widen_are_named() -> None:
    made = quantize(_model(), _data())
    lowered = pipeline.lower(made.module, parse_target("x86:avx2"))
    (report,) = (r for r in lowered.reports if r.name == "lower-kernels")
    (note,) = report.notes
    assert "int8 kernels (conv2d_0" in note
    assert "quantize for this target" in note
