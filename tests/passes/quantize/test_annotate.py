"""What is quantized, whose scale it takes, and the reason for everything that is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import relax

from lepton_tvm.errors import InputError
from lepton_tvm.ir import graph as g
from lepton_tvm.passes.quantize.annotate import annotate
from lepton_tvm.passes.quantize.config import QuantizeConfig
from lepton_tvm.passes.quantize.plan import Plan
from tests.support.quantized_graphs import Net, net


def reason_of(plan: Plan, name: str) -> str:
    return next(s.reason for s in plan.skipped if s.name == name)


def test_one_quantize_at_the_end_of_the_epilogue() -> None:
    def write(n: Net, x: Any) -> Any:
        y = n.bias(n.conv(x, 8, 3))
        gate = n.op(relax.op.clip(n.op(relax.op.add(y, relax.const(3.0))), 0.0, 6.0))
        return n.conv(n.op(relax.op.multiply(y, gate)), 4)

    plan = annotate(net(write))
    assert plan.anchors == ("conv2d_0", "conv2d_1")
    assert plan.tensors == ("x", "multiply_0")
    assert plan.epilogues == 4
    assert plan.skipped == ()


def test_a_tensor_read_by_a_conv_and_a_residual_add_is_quantized_once() -> None:
    def write(n: Net, x: Any) -> Any:
        y = n.relu(n.conv(x, 4))
        z = n.conv(n.relu(n.conv(y, 4, 3, padding=1)), 4)
        return n.conv(n.op(relax.op.add(z, y)), 4)

    assert annotate(net(write)).tensors == ("x", "relu_0", "relu_1", "add_0")


def test_of_two_convs_that_meet_the_later_is_stored_as_uint8() -> None:
    def write(n: Net, x: Any) -> Any:
        main, side = n.bias(n.conv(x, 4)), n.bias(n.conv(x, 4))
        return n.dense(n.relu(n.op(relax.op.add(main, side))), 3)

    assert annotate(net(write)).tensors == ("x", "add_1", "relu_0")


def test_a_stream_that_every_reader_turns_into_uint8_is_stored_once() -> None:
    def write(n: Net, x: Any) -> Any:
        stream = n.bias(n.conv(x, 4))
        branch = n.conv(n.relu(n.bias(stream)), 4)
        joined = n.op(relax.op.add(branch, stream))
        return n.dense(n.relu(joined), 3)

    assert annotate(net(write)).tensors == ("x", "add_0", "relu_0", "relu_1")


def test_layer_norm_reads_float() -> None:
    def write(n: Net, x: Any) -> Any:
        y = n.dense(x, 4)
        centred = n.op(relax.op.subtract(y, n.op(relax.op.mean(y, [-1], True))))
        square = n.op(relax.op.multiply(centred, centred))
        spread = n.op(relax.op.sqrt(n.op(relax.op.mean(square, [-1], True))))
        return n.dense(n.op(relax.op.divide(centred, spread)), 4)

    plan = annotate(net(write, (2, 6)))
    assert plan.tensors == ("x", "divide_0")
    assert reason_of(plan, "mean_0") == "not over the two spatial axes"


def test_quantize_moves_above_max_pool_reshape_and_transpose() -> None:
    def write(n: Net, x: Any) -> Any:
        y = n.op(relax.op.permute_dims(x, [0, 2, 3, 1]))
        y = n.relu(n.conv(y, 8))
        y = n.op(relax.op.nn.max_pool2d(y, (2, 2), (2, 2), layout="NHWC"))
        return n.dense(n.op(relax.op.reshape(y, (1, 128))), 3)

    plan = annotate(net(write, (1, 4, 8, 8)))
    assert plan.tensors == ("x", "permute_dims_0", "relu_0", "max_pool2d_0", "reshape_0")
    assert plan.measured == ("x", "relu_0")
    assert plan.params_of("reshape_0") == "relu_0"


def test_concat_operands_that_nobody_else_reads_take_its_scale() -> None:
    def write(n: Net, x: Any) -> Any:
        shared, alone = n.relu(n.conv(x, 4)), n.conv(x, 4)
        side = n.conv(shared, 4)
        joined = n.op(relax.op.concat([shared, alone, side], axis=3))
        return n.conv(joined, 2)

    plan = annotate(net(write))
    assert plan.pooled == ("concat_0",)
    assert plan.shared == {"conv2d_1": "concat_0", "conv2d_2": "concat_0"}


def test_nearest_resize_passes_uint8_and_linear_does_not() -> None:
    def write(method: str) -> Any:
        def inner(n: Net, x: Any) -> Any:
            y = n.relu(n.conv(x, 4))
            return n.conv(
                n.op(relax.op.image.resize2d(y, (16, 16), layout="NHWC", method=method)), 4
            )

        return inner

    assert "relu_0" in annotate(net(write("nearest_neighbor"))).tensors
    plan = annotate(net(write("linear")))
    assert "relu_0" not in plan.tensors
    assert reason_of(plan, "resize2d_0") == "relax.image.resize2d is not in the int8 set"


def test_output_of_the_model_stays_float() -> None:
    def write(n: Net, x: Any) -> Any:
        y = n.relu(n.conv(x, 4))
        return n.op(relax.op.permute_dims(y, [0, 3, 1, 2])), n.conv(y, 4)

    plan = annotate(net(write))
    assert "permute_dims_0" not in plan.tensors
    assert "output of the model" in reason_of(plan, "permute_dims_0")


def _activations(n: Net, x: Any) -> Any:
    return n.op(relax.op.matmul(x, n.op(relax.op.permute_dims(x, [0, 1, 3, 2]))))


def _weight_is_not_constant(n: Net, x: Any, w: Any) -> Any:
    return n.op(relax.op.nn.conv2d(x, w, data_layout="NHWC", kernel_layout="HWIO"))


def _constant_on_the_left(n: Net, x: Any) -> Any:
    return n.op(relax.op.matmul(g.constant(n.weight(3, 8)), x))


def _nchw(n: Net, x: Any) -> Any:
    return n.op(relax.op.nn.conv2d(x, g.constant(n.weight(2, 8, 1, 1))))


def _batched_weight(n: Net, x: Any) -> Any:
    return n.op(relax.op.matmul(x, g.constant(n.weight(1, 8, 4, 3))))


def _nan_weight(n: Net, x: Any) -> Any:
    return n.conv(x, 2, weight=np.full((1, 1, 4, 2), np.nan, np.float32))


def _huge_fan_in(n: Net, x: Any) -> Any:
    return n.dense(n.op(relax.op.reshape(x, (1, 70000))), 1)


@pytest.mark.parametrize(
    ("write", "shapes", "name", "reason"),
    [
        (_activations, [(1, 8, 8, 4)], "matmul_0", "both operands are activations"),
        (
            _weight_is_not_constant,
            [(1, 8, 8, 4), (1, 1, 4, 2)],
            "conv2d_0",
            "weight is not constant",
        ),
        (_constant_on_the_left, [(1, 8, 8, 4)], "matmul_0", "the data operand is constant"),
        (_nchw, [(1, 8, 8, 4)], "conv2d_0", "layout NCHW/OIHW, need NHWC/HWIO"),
        (_batched_weight, [(1, 8, 8, 4)], "matmul_0", "weight has 4 dimensions"),
        (_nan_weight, [(1, 8, 8, 4)], "conv2d_0", "NaN or infinite"),
        (_huge_fan_in, [(1, 70000)], "matmul_0", "sums of 70000 products can overflow int32"),
    ],
)
def test_why_an_anchor_is_left_alone(
    write: Any, shapes: list[tuple[int, ...]], name: str, reason: str
) -> None:
    plan = annotate(net(write, *shapes))
    assert plan.anchors == ()
    assert plan.tensors == ()
    assert reason in reason_of(plan, name)


def test_why_other_dtypes_are_left_alone() -> None:
    def write(n: Net, x: Any) -> Any:
        weight = g.constant(np.ones((4, 2), np.float16))
        return n.op(
            relax.op.add(n.op(relax.op.matmul(x, weight)), g.constant(np.array(1, np.float16)))
        )

    plan = annotate(net(write, (2, 4), dtype="float16"))
    assert "only float32 is quantized" in reason_of(plan, "matmul_0")
    assert reason_of(plan, "add_0") == "float16 data, only float32 is quantized"


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        (lambda y: relax.op.mean(y, [3]), "not over the two spatial axes"),
        (
            lambda y: relax.op.nn.avg_pool2d(y, (3, 3), padding=(1, 1), layout="NHWC"),
            "padding that is left out of the count",
        ),
        (
            lambda y: relax.op.nn.avg_pool2d(y, (3, 3), (2, 2), ceil_mode=True, layout="NHWC"),
            "ceil_mode",
        ),
        (lambda y: relax.op.nn.adaptive_avg_pool2d(y, (3, 3), layout="NHWC"), "mixed size"),
        (lambda y: relax.op.nn.avg_pool2d(y, (2, 2)), "layout NCHW, need NHWC"),
        (lambda y: relax.op.nn.softmax(y), "kept in float: its result needs more than 8 bits"),
        (lambda y: relax.op.nn.softmax(relax.op.tanh(y)), "kept in float"),
        (lambda y: relax.op.cumsum(y, 3), "relax.cumsum is not in the int8 set"),
    ],
)
def test_why_other_ops_stay_float(pool: Any, reason: str) -> None:
    def write(n: Net, x: Any) -> Any:
        return n.op(pool(n.relu(n.conv(x, 4))))

    plan = annotate(net(write))
    assert plan.pooled == ()
    assert reason in plan.skipped[-1].reason


def test_pools_not_fed_by_int8_kernels_stay_float() -> None:
    def write(n: Net, x: Any) -> Any:
        return n.op(relax.op.mean(n.op(relax.op.sigmoid(x)), [1, 2]))

    plan = annotate(net(write))
    assert reason_of(plan, "mean_0") == "not fed by int8 kernels"
    assert reason_of(plan, "sigmoid_0") == "not fed by an int8 kernel"


def test_concat_before_the_outputs_stays_float() -> None:
    def write(n: Net, x: Any) -> Any:
        return n.op(relax.op.concat([n.conv(x, 4), n.conv(x, 4)], axis=3))

    assert reason_of(annotate(net(write)), "concat_0") == "no int8 kernel reads the result"


def _two_convs(n: Net, x: Any) -> Any:
    return n.conv(n.relu(n.conv(x, 4)), 4)


def test_skip_patterns_leave_ops_out_and_say_so() -> None:
    plan = annotate(net(_two_convs), QuantizeConfig(skip=("conv2d_1",)))
    assert plan.anchors == ("conv2d_0",)
    assert plan.tensors == ("x",)
    assert reason_of(plan, "conv2d_1") == "left out by the skip pattern 'conv2d_1'"


def test_a_skip_pattern_must_match() -> None:
    with pytest.raises(InputError, match=r"'dense_\*' matches no op .* conv2d_0, conv2d_1"):
        annotate(net(_two_convs), QuantizeConfig(skip=("dense_*",)))
