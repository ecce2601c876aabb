from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from lepton_tvm.ir.graph import Array, shape_of
from lepton_tvm.passes.graph.canonicalize.canonicalize import Canonicalize
from lepton_tvm.passes.graph.layout.to_nhwc import ToNHWC
from tests.support.graphs import assert_close, check_pass, count, graph, named, noise, run

op = relax.op


def scatter(
    x: Array,
    weight: Array,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    extra: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Array:
    """The definition of a transposed convolution (NCHW, IOHW), in float64."""
    n, c, h, w = x.shape
    _, per_group, kh, kw = weight.shape
    top, left, bottom, right = padding
    height = (h - 1) * stride[0] + (kh - 1) * dilation[0] + 1 + extra[0]
    width = (w - 1) * stride[1] + (kw - 1) * dilation[1] + 1 + extra[1]
    out = np.zeros((n, per_group * groups, height, width))
    for group in range(groups):
        inputs = slice(group * c // groups, (group + 1) * c // groups)
        outputs = slice(group * per_group, (group + 1) * per_group)
        for i in range(kh):
            for j in range(kw):
                part = np.einsum("nchw,co->nohw", x[:, inputs], weight[inputs, :, i, j])
                rows = slice(i * dilation[0], i * dilation[0] + (h - 1) * stride[0] + 1, stride[0])
                cols = slice(j * dilation[1], j * dilation[1] + (w - 1) * stride[1] + 1, stride[1])
                out[:, outputs, rows, cols] += part
    return out[:, :, top : height - bottom, left : width - right]


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_phases_compute_the_transposed_convolution(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.integers(low, high)), data.draw(st.integers(low, high))

    groups = data.draw(st.sampled_from([1, 2]))
    kernel, stride, dilation = pair(1, 4), pair(1, 3), pair(1, 2)
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    before, after = pair(0, 1), pair(0, 1)
    padding = (
        min(before[0], reach[0]),
        min(before[1], reach[1]),
        min(after[0], reach[0] - min(before[0], reach[0])),
        min(after[1], reach[1] - min(before[1], reach[1])),
    )
    extra = tuple(data.draw(st.integers(0, s - 1)) for s in stride)
    shape = (data.draw(st.integers(1, 2)), 2 * groups, *pair(2, 4))
    weight = noise(2 * groups, data.draw(st.integers(1, 2)), *kernel)

    def body(x: relax.Expr) -> relax.Expr:
        made = op.nn.conv2d_transpose(x, weight, stride, padding, extra, dilation, groups)
        bias = noise(1, shape_of(weight)[1] * groups, 1, 1, seed=1)
        return op.nn.relu(op.add(made, bias))

    mod, _ = check_pass(ToNHWC(), graph(body, x=shape))
    assert count(mod, "nn.conv2d_transpose") == 0
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    want = scatter(
        x.astype(np.float64),
        weight.value.numpy().astype(np.float64),
        stride,
        padding,
        (extra[0], extra[1]),
        dilation,
        groups,
    )
    want = np.maximum(want + noise(1, want.shape[1], 1, 1, seed=1).value.numpy(), 0)
    assert_close(run(mod, x), [want], terms=16 * 4)


def test_bias_and_activation_run_before_the_pixels_are_spread() -> None:
    def body(x: relax.Expr) -> relax.Expr:
        made = op.nn.conv2d_transpose(x, noise(4, 3, 2, 2), strides=2)
        return op.nn.relu(op.add(made, noise(1, 3, 1, 1, seed=1)))

    mod, report = check_pass(ToNHWC(), graph(body, x=(1, 4, 5, 6)))
    assert report.skipped == ()
    (add,), (relu,) = named(mod, "add"), named(mod, "nn.relu")
    assert shape_of(add.var) == shape_of(relu.var) == (1, 5, 6, 12)
    bias = noise(1, 3, 1, 1, seed=1).value.numpy().reshape(-1)
    np.testing.assert_array_equal(add.value.args[1].value.numpy().reshape(-1), np.tile(bias, 4))


def test_a_residual_after_it_runs_on_pixels() -> None:
    def body(x: relax.Expr, y: relax.Expr) -> relax.Expr:
        made = op.nn.conv2d_transpose(x, noise(4, 3, 2, 2), strides=2)
        return op.add(made, op.nn.conv2d(y, noise(3, 3, 1, 1)))

    before = graph(body, x=(1, 4, 3, 3), y=(1, 3, 6, 6))
    mod, _ = check_pass(ToNHWC(), before)
    (add,) = named(mod, "add")
    assert shape_of(add.var) == (1, 6, 6, 3)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=s).astype(np.float32) for s in ((1, 4, 3, 3), (1, 3, 6, 6)))
    assert_close(run(mod, x, y), run(before, x, y), terms=16)


def test_a_computed_weight_is_left_and_reported() -> None:
    before = graph(
        lambda x, w: op.nn.conv2d_transpose(x, w, strides=2), x=(1, 4, 3, 3), w=(4, 2, 2, 2)
    )
    mod, report = check_pass(ToNHWC(), before)
    assert count(mod, "nn.conv2d_transpose") == 1
    assert [s.reason for s in report.skipped] == ["its weight is not constant"]


def test_canonicalize_keeps_the_spread_as_it_is() -> None:
    mod = graph(lambda x: op.nn.conv2d_transpose(x, noise(4, 3, 2, 2), strides=2), x=(1, 4, 5, 6))
    made, _ = ToNHWC()(mod)
    after, _ = check_pass(Canonicalize(), made)
    assert count(after, "nn.conv2d") == 1
