"""The table of schemes: complete, and true to what the passes write and kernels compute."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tvm

from lepton_tvm.bench.wanted_schemes import known_schemes
from lepton_tvm.compiler import pipeline
from lepton_tvm.compression import quantize as compression
from lepton_tvm.ir import graph as g
from lepton_tvm.ir.precisions import PRECISIONS
from lepton_tvm.model import Model
from lepton_tvm.passes.lower.kernels import gpu_kernels, kernel_types
from lepton_tvm.passes.quantize.config import QuantizeConfig
from lepton_tvm.passes.quantize.schemes import BFLOAT16, FLOAT32, INT8, SCHEMES, Scheme
from lepton_tvm.passes.registry import PASSES
from lepton_tvm.targets import FAMILIES, parse_target
from lepton_tvm.tuning.trials import _TOLERANCE
from tests.support.quantized_graphs import Net, model_of, net

WRITTEN = [scheme for scheme in SCHEMES.values() if scheme.writer]


def _write(n: Net, x: Any) -> Any:
    return n.bias(n.conv(n.relu(n.bias(n.conv(x, 8, 3, padding=1))), 16))


def made_in(scheme: Scheme) -> Model:
    """A small network in a scheme."""
    samples = np.random.default_rng(1).normal(size=(4, 8, 8, 4)).astype(np.float32)
    data = samples if scheme.is_calibrated else None
    return compression.quantize(model_of(net(_write)), data, method=scheme.method)


def weights_and_data(model: Model) -> tuple[list[Any], list[Any]]:
    """The stored weights of the convolutions, and what else they read."""
    made = g.definitions(g.main_of(model.module))
    calls = [c for c in made.values() if g.op_name(c) == "relax.nn.conv2d"]

    def stored(operand: Any) -> Any:
        value = made.get(operand, operand)
        return value.args[0] if g.op_name(value) == "relax.dequantize" else operand

    return [stored(c.args[1]) for c in calls], [stored(c.args[0]) for c in calls]


def test_names_are_given_once() -> None:
    assert [scheme.name for scheme in SCHEMES.values()] == list(SCHEMES)
    for words in ([s.method for s in WRITTEN], [w for s in WRITTEN for w in s.spellings]):
        assert len(set(words)) == len(words)


@pytest.mark.parametrize("scheme", WRITTEN, ids=lambda scheme: scheme.name)
def test_a_pass_writes_it(scheme: Scheme) -> None:
    assert scheme.writer in PASSES
    assert scheme.writer in compression._WRITERS
    assert compression.METHODS[scheme.method] is scheme


@pytest.mark.parametrize("scheme", WRITTEN, ids=lambda scheme: scheme.name)
def test_what_is_stored_has_the_types_and_bits_of_the_row(scheme: Scheme) -> None:
    made = made_in(scheme)
    assert made.precision == scheme.name
    assert made.is_quantized
    weights, data = weights_and_data(made)
    assert {g.dtype_of(w) for w in weights} == {scheme.precision.weight}
    assert {g.dtype_of(d) for d in data} == {scheme.precision.data}
    bits = [tvm.DataType(g.dtype_of(operand)).bits for operand in (weights[0], data[0])]
    assert bits == [scheme.weight_bits[0], scheme.activation_bits[0]]


@pytest.mark.parametrize("scheme", WRITTEN, ids=lambda scheme: scheme.name)
def test_scales_are_per_channel_or_per_tensor_as_the_row_says(scheme: Scheme) -> None:
    found: dict[str, set[str]] = {"weights": set(), "activations": set()}
    for call in g.definitions(g.main_of(made_in(scheme).module)).values():
        if g.op_name(call) == "relax.dequantize":
            kind = "weights" if g.is_constant(call.args[0]) else "activations"
            found[kind].add("channel" if g.shape_of(call.args[1]) else "tensor")
    assert found["weights"] == {scheme.weight_scales} - {""}
    assert found["activations"] == {scheme.activation_scales} - {""}


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
def test_kernels_compute_in_its_precision(scheme: Scheme) -> None:
    model = made_in(scheme) if scheme.writer else model_of(net(_write))
    levels = FAMILIES["x86"].levels.values()
    target = parse_target(f"x86:{next(level for level in levels if scheme.runs_on(level)).name}")
    kernels = pipeline.lower(model.module, target).kernels
    assert {k.precision for k in kernels if k.macs} == {scheme.precision.name}


def test_which_levels_have_kernels() -> None:
    for family in FAMILIES.values():
        for level in family.levels.values():
            assert FLOAT32.runs_on(level)
            assert INT8.runs_on(level)
            assert BFLOAT16.runs_on(level) is level.bf16


def test_every_precision_has_types_for_kernels_and_a_tolerance() -> None:
    rows = PRECISIONS.values()
    assert {(p.data, p.weight, p.sums) for p in rows} == set(kernel_types._TYPES)
    assert {p.weight for p in rows} == set(gpu_kernels._STEP)
    assert set(PRECISIONS) == {s.precision.name for s in SCHEMES.values()}
    assert set(_TOLERANCE) == {*PRECISIONS, "mixed"}


def test_schemes_of_one_precision_allow_the_same_of_a_kernel() -> None:
    pairs = {(s.precision.name, s.kernel_tolerance) for s in SCHEMES.values()}
    assert len(pairs) == len({s.precision.name for s in SCHEMES.values()})


def test_options_of_quantization_start_with_the_first_choices() -> None:
    config = QuantizeConfig()
    for field in ("weight_bits", "activation_bits", "sum_bits"):
        assert getattr(config, field) == getattr(config.scheme, field)[0]


def test_benchmarks_take_the_widest_first() -> None:
    assert [s.name for s in known_schemes()] == ["float32", "bfloat16", "int8"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"writer": ""}, "int8 needs all of method, spellings and writer"),
        ({"spellings": ()}, "int8 needs all of method, spellings and writer"),
        ({"ranges": "guessed"}, "int8: ranges cannot be 'guessed'"),
        ({"weight_scales": "row"}, "int8: scales are per channel or per tensor"),
    ],
)
def test_incomplete_rows_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(INT8, **changes)
