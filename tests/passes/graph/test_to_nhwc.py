from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import relax

from lepton_tvm.ir.graph import Expr, constant, shape_of
from lepton_tvm.passes.graph.canonicalize.canonicalize import Canonicalize
from lepton_tvm.passes.graph.layout.layout_tensors import last_axis_of, to_first_axes, to_last_axes
from lepton_tvm.passes.graph.layout.to_nhwc import ToNHWC
from tests.support.graphs import (
    assert_close,
    check_pass,
    count,
    f32,
    graph,
    named,
    noise,
    run,
    skipped,
)

op = relax.op
SHAPE = (2, 3, 8, 10)


def emit(expr: Expr) -> Expr:
    return relax.BlockBuilder.current().emit(expr)


def conv(x: Expr, k: int = 4, c: int = 3, size: int = 3, seed: int = 0, **kwargs: Any) -> Expr:
    return emit(op.nn.conv2d(x, noise(k, c, size, size, seed=seed), **kwargs))


def conv_nhwc(x: Expr, weight: Expr, **kwargs: Any) -> Expr:
    weight = constant(weight.value.numpy().transpose(2, 3, 1, 0))
    return op.nn.conv2d(
        x, weight, data_layout="NHWC", kernel_layout="HWIO", out_layout="NHWC", **kwargs
    )


def test_before_and_expected() -> None:
    def body(x: Expr) -> Expr:
        y = op.nn.relu(op.add(conv(x, padding=1), noise(1, 4, 1, 1, seed=1)))
        y = op.nn.max_pool2d(y, 2, 2)
        y = op.concat([y, op.multiply(y, op.mean(y, [2, 3], True))], axis=1)
        return op.reshape(op.mean(conv(y, 5, 8), [2, 3], True), (2, 5))

    def expected(x: Expr) -> Expr:
        y = conv_nhwc(op.permute_dims(x, [0, 2, 3, 1]), noise(4, 3, 3, 3), padding=1)
        y = op.nn.relu(
            op.add(y, constant(noise(1, 4, 1, 1, seed=1).value.numpy().reshape(1, 1, 1, 4)))
        )
        y = emit(op.nn.max_pool2d(y, 2, 2, layout="NHWC", out_layout="NHWC"))
        y = op.concat([y, op.multiply(y, op.mean(y, [1, 2], True))], axis=3)
        y = conv_nhwc(y, noise(5, 8, 3, 3))
        return op.reshape(op.mean(y, [1, 2], True), (2, 5))

    check_pass(ToNHWC(), graph(body, x=SHAPE), graph(expected, x=SHAPE))


# name: (body, how many permutes are left after Canonicalize, some op and the shapes it must have)
CASES: dict[str, tuple[Callable[[Expr], Any], int]] = {
    "residual": (lambda x: op.add(conv(x), conv(x, seed=1)), 2),
    "squeeze and excite": (lambda x: op.mean(_squeeze_excite(conv(x)), [2, 3]), 1),
    "constants of any rank": (
        lambda x: op.mean(
            op.add(op.multiply(conv(x, padding=1), noise(4, 1, 1)), noise(8, 10, seed=1)), [1, 2, 3]
        ),
        1,
    ),
    "depthwise and grouped": (
        lambda x: op.mean(conv(conv(conv(x), 4, 1, groups=4), 8, 2, groups=2), [2, 3]),
        1,
    ),
    "dilation, stride, odd padding": (
        lambda x: op.mean(conv(x, strides=(2, 1), padding=(0, 2, 1, 0), dilation=(1, 2)), [2, 3]),
        1,
    ),
    "pools": (
        lambda x: op.mean(
            op.add(
                op.nn.max_pool2d(conv(x), 3, 2, 1),
                op.nn.avg_pool2d(conv(x), 3, 2, 1, count_include_pad=True),
            ),
            [2, 3],
        ),
        1,
    ),
    "resize": (lambda x: op.max(op.image.resize2d(conv(x), (12, 5), method="linear"), [2, 3]), 1),
    "split": (lambda x: op.mean(_split(conv(x)), [2, 3]), 1),
    "slice with stride": (
        lambda x: op.sum(op.strided_slice(conv(x), [1, 3], [1, 0], [4, 8], [2, 3]), [2, 3]),
        1,
    ),
    "pad": (
        lambda x: op.mean(op.nn.pad(conv(x), [0, 0, 1, 0, 2, 1, 0, 3], pad_value=0.5), [2, 3]),
        1,
    ),
    "softmax over channels": (lambda x: op.max(op.nn.softmax(conv(x), axis=1), [2, 3]), 1),
    "softmax over columns": (lambda x: op.max(op.nn.softmax(conv(x), axis=-1), [2, 3]), 1),
    "prelu": (lambda x: op.mean(op.nn.prelu(conv(x), noise(4), axis=1), [2, 3]), 1),
    "where": (
        lambda x: op.mean(op.where(op.greater(conv(x), noise(4, 1, 1)), conv(x), noise(1)), [2, 3]),
        1,
    ),
    "flatten needs the old order": (lambda x: op.reshape(conv(x), (2, -1)), 2),
    "channel shuffle": (lambda x: op.mean(conv(_shuffle(conv(x)), 2, 4), [2, 3]), 2),
    "sequence of columns": (
        lambda x: op.permute_dims(op.reshape(op.mean(conv(x), [2], True), (2, 4, 8)), [0, 2, 1]),
        1,
    ),
    "tokens of pixels": (lambda x: op.permute_dims(op.reshape(conv(x), (2, 4, 48)), [0, 2, 1]), 1),
    "tokens back to pixels": (
        lambda x: op.mean(
            conv(
                op.reshape(
                    op.permute_dims(
                        op.permute_dims(op.reshape(conv(x), (2, 4, 48)), [0, 2, 1]), [0, 2, 1]
                    ),
                    (2, 4, 6, 8),
                ),
                2,
                4,
            ),
            [2, 3],
        ),
        1,
    ),
    "reduction over channels": (lambda x: op.max(conv(x), [1]), 1),
    "argmax over channels": (lambda x: op.argmax(conv(x), 1), 1),
    "argmax over rows": (lambda x: op.argmax(conv(x), 2, True), 2),
    "reduction over rows only": (lambda x: op.max(conv(x), [2]), 2),
    "several outputs": (lambda x: [op.exp(conv(x)), op.mean(conv(x), [2, 3])], 2),
    "a channels-last block inside": (
        lambda x: op.mean(
            op.permute_dims(op.exp(op.permute_dims(conv(x), [0, 2, 3, 1])), [0, 3, 1, 2]), [2, 3]
        ),
        1,
    ),
    "input and convolution": (lambda x: op.mean(op.add(x, conv(x, 3, padding=1)), [2, 3]), 1),
}


def _squeeze_excite(x: Expr) -> Expr:
    gate = conv(op.nn.relu(conv(op.mean(x, [2, 3], True), 2, 4, 1)), 4, 2, 1)
    return op.multiply(x, op.sigmoid(gate))


def _split(x: Expr) -> Expr:
    parts = emit(op.split(x, [1], axis=1))
    first, rest = emit(relax.TupleGetItem(parts, 0)), emit(relax.TupleGetItem(parts, 1))
    return op.concat([op.exp(rest), first], axis=1)


def _shuffle(x: Expr) -> Expr:
    apart = op.reshape(x, (2, 2, 2, 6, 8))
    return op.reshape(op.permute_dims(apart, [0, 2, 1, 3, 4]), (2, 4, 6, 8))


@pytest.mark.parametrize("case", CASES)
def test_numbers_stay_and_permutes_are_few(case: str) -> None:
    body, permutes = CASES[case]
    before = graph(body, x=SHAPE)
    before, _ = Canonicalize()(before)
    after, _ = check_pass(ToNHWC(), before)
    after, _ = check_pass(Canonicalize(), after)
    for binding in [*named(after, "nn.conv2d"), *named(after, "nn.max_pool2d")]:
        attrs = binding.value.attrs
        assert getattr(attrs, "data_layout", getattr(attrs, "layout", "")) == "NHWC"
    assert count(after, "permute_dims") == permutes
    x = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
    assert_close(run(after, x), run(before, x), terms=200)


def test_one_value_is_permuted_once() -> None:
    after, report = check_pass(ToNHWC(), graph(lambda x: op.add(conv(x), conv(x, seed=1)), x=SHAPE))
    assert dict(report.numbers) == {"permutes": 2}  # one for x, one for the output
    assert count(after, "permute_dims") == 2


def test_a_graph_without_pictures_is_left_alone() -> None:
    mod = graph(lambda x: op.matmul(op.permute_dims(x, [0, 2, 1]), noise(3, 4)), x=(2, 3, 5))
    _, report = check_pass(ToNHWC(), mod, mod)
    assert report.changed == 0


def test_a_computed_weight_is_permuted_in_the_graph() -> None:
    def body(x: Expr, w: Expr) -> Expr:
        return op.nn.conv2d(x, w)

    before = graph(body, x=SHAPE, w=(4, 3, 3, 3))
    after, _ = check_pass(ToNHWC(), before)
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=s).astype(np.float32) for s in (SHAPE, (4, 3, 3, 3)))
    assert_close(run(after, x, w), run(before, x, w), terms=27)


def test_a_quantized_weight_is_permuted_where_it_is_stored() -> None:
    stored = np.arange(-54, 54, dtype=np.int8).reshape(4, 3, 3, 3)
    scales, zeros = f32([0.1, 0.2, 0.3, 0.4]), np.zeros(4, np.int8)

    def body(x: Expr) -> Expr:
        weight = op.dequantize(
            constant(stored), constant(scales), constant(zeros), axis=0, out_dtype="float32"
        )
        return op.nn.conv2d(x, weight)

    after, _ = check_pass(ToNHWC(), graph(body, x=SHAPE))
    (made,) = named(after, "dequantize")
    assert shape_of(made.var) == (3, 3, 3, 4)
    assert int(made.value.attrs.axis) == 3
    np.testing.assert_array_equal(made.value.args[0].value.numpy(), stored.transpose(2, 3, 1, 0))


def test_three_dimensional_convolutions_are_reported() -> None:
    def body(x: Expr, y: Expr) -> list[Expr]:
        return [op.nn.conv3d(x, noise(2, 1, 2, 2, 2)), conv(y)]

    _, report = check_pass(ToNHWC(), graph(body, x=(1, 1, 4, 4, 4), y=SHAPE))
    assert [s.op for s in report.skipped] == ["relax.nn.conv3d"]
    assert "no channels-last form" in skipped(report)[0]


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5, 6])
def test_axes_go_there_and_back(rank: int) -> None:
    there, back = to_last_axes(rank), to_first_axes(rank)
    assert [there[b] for b in back] == list(range(rank))
    for axis in range(rank):
        assert there[last_axis_of(axis, rank)] == axis
        assert last_axis_of(axis - rank, rank) == last_axis_of(axis, rank)


def test_a_convolution_of_another_kernel_layout_stays_and_is_reported() -> None:
    mod = graph(
        lambda x: op.nn.conv2d(x, noise(3, 3, 4, 6), data_layout="NCHW", kernel_layout="HWIO"),
        x=(1, 4, 5, 5),
    )
    after, report = check_pass(ToNHWC(), mod)
    assert count(after, "permute_dims") == 0
    assert [s.op for s in report.skipped] == ["relax.nn.conv2d"]
    assert "its layouts are not NCHW and OIHW" in skipped(report)[0]


def test_a_transposed_convolution_of_a_computed_weight_stays_and_is_reported() -> None:
    mod = graph(lambda x, w: op.nn.conv2d_transpose(x, w), x=(1, 4, 5, 5), w=(4, 6, 3, 3))
    _, report = check_pass(ToNHWC(), mod)
    assert skipped(report) == ["its weight is not constant"]
