"""The interchange form: where pairs stand, whose parameters they carry, corrected biases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import relax

from lepton_tvm.errors import CompileError
from lepton_tvm.ir import graph as g
from lepton_tvm.passes.quantize.annotate import annotate
from lepton_tvm.passes.quantize.insert_qdq import InsertQDQ
from lepton_tvm.passes.quantize.qparams import QParams, quantize_weight, weight_scales
from tests.support.quantized_graphs import Net, call_named, net, ops_of

HALF = QParams(0.5, 3)
PAIR = ["relax.quantize", "relax.dequantize"]


def _conv_relu(n: Net, x: Any) -> Any:
    y = n.relu(n.bias(n.conv(x, 6, 3)))
    return y, n.conv(y, 2)


def _inserted(module: Any, params: QParams = HALF, **means: Any) -> Any:
    plan = annotate(module)
    insert = InsertQDQ(plan, dict.fromkeys(plan.measured, params), means)
    return insert(module)


def test_pairs_and_report() -> None:
    module = net(_conv_relu)
    made, report = _inserted(module)
    conv = ["relax.dequantize", "relax.nn.conv2d"]
    assert ops_of(made) == [*PAIR, *conv, "relax.add", "relax.nn.relu", *PAIR, *conv, ""]
    assert dict(report.numbers) == {
        "activation_pairs": 2,
        "int8_weights": 2,
        "corrected_biases": 0,
    }


def test_the_module_that_comes_in_is_untouched() -> None:
    module = net(_conv_relu)
    before = module.clone()
    _inserted(module)
    assert g.same_structure(module, before)


def test_outputs_of_the_model_read_the_float_tensor() -> None:
    made, _ = _inserted(net(_conv_relu))
    output = g.output_of(g.main_of(made))
    assert [g.op_name(g.definitions(g.main_of(made))[f]) for f in output.fields] == [
        "relax.nn.relu",
        "relax.nn.conv2d",
    ]


def test_weights_are_int8_per_output_channel() -> None:
    module = net(_conv_relu)
    made, _ = _inserted(module)
    weight = g.const_array(call_named(module, "conv2d_0").args[1])
    pair = call_named(made, call_named(made, "conv2d_0").args[1].name)
    values, scales, zeros = (g.const_array(a) for a in pair.args)
    assert weight is not None
    assert values is not None
    assert scales is not None
    assert zeros is not None
    bias = g.const_array(call_named(module, "add_0").args[1])
    expected = weight_scales(weight, 3, bias, 0.5)
    assert np.array_equal(scales, expected)
    assert np.array_equal(values, quantize_weight(weight, expected, 3))
    assert zeros.dtype == np.int8
    assert not zeros.any()
    assert int(pair.attrs.axis) == 3


def test_activations_carry_their_scale_and_zero_point() -> None:
    made, _ = _inserted(net(_conv_relu), QParams(0.25, 7))
    pair = call_named(made, "quantize_0")
    assert g.scalar_of(pair.args[1]) == 0.25
    assert g.scalar_of(pair.args[2]) == 7
    assert g.dtype_of(pair) == "uint8"


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_bias_correction_takes_the_mean_shift_off(groups: int) -> None:
    def write(n: Net, x: Any) -> Any:
        return n.bias(n.conv(x, 4, 3, groups=groups))

    module = net(write)
    means = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
    plain, _ = _inserted(module)
    made, report = _inserted(module, conv2d_0=means)
    assert dict(report.numbers)["corrected_biases"] == 1
    weight = g.const_array(call_named(module, "conv2d_0").args[1])
    pair = call_named(plain, call_named(plain, "conv2d_0").args[1].name)
    values, scales = (g.const_array(a) for a in pair.args[:2])
    assert weight is not None
    assert values is not None
    assert scales is not None
    error = values.astype(np.float64) * scales - weight
    shift = np.zeros(4)
    for k in range(4):  # on a picture that is constant per channel, the shift is exact
        first = (k * groups // 4) * (4 // groups)
        shift[k] = (error[..., k].sum(axis=(0, 1)) * means[first : first + 4 // groups]).sum()
    old = g.const_array(call_named(module, "add_0").args[1])
    new = g.const_array(call_named(made, "add_0").args[1])
    assert old is not None
    assert new is not None
    np.testing.assert_allclose(new.reshape(-1), old.reshape(-1) - shift, atol=1e-6)


def test_bias_correction_makes_a_bias_where_there_was_none() -> None:
    def write(n: Net, x: Any) -> Any:
        return n.relu(n.dense(x, 3))

    made, _ = _inserted(net(write, (2, 4)), matmul_0=np.ones(4, np.float32))
    assert ops_of(made)[-3:] == ["relax.matmul", "relax.add", "relax.nn.relu"]


def test_a_tensor_without_a_range_is_refused() -> None:
    module = net(_conv_relu)
    with pytest.raises(CompileError, match=r"no range for \['x', 'relu_0'\]"):
        InsertQDQ(annotate(module), {})(module)


def test_operands_of_a_concat_carry_its_parameters() -> None:
    def write(n: Net, x: Any) -> Any:
        return n.conv(n.op(relax.op.concat([n.conv(x, 4), n.conv(x, 4)], axis=3)), 2)

    module = net(write)
    plan = annotate(module)
    params = {name: QParams(0.1 * (i + 1), i) for i, name in enumerate(plan.measured)}
    made, _ = InsertQDQ(plan, params)(module)
    zeros = [
        g.scalar_of(b.value.args[2])
        for b in g.bindings_of(g.main_of(made))
        if g.op_name(b.value) == "relax.quantize"
    ]
    assert zeros == [0, 1, 1, 1]
