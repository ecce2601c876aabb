"""The pass: what becomes bfloat16, what stays, what is reported, and what numbers come out."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import relax

from lepton_tvm.compiler import pipeline
from lepton_tvm.ir import graph as g
from lepton_tvm.ir.graph import (
    Array,
    bindings_of,
    const_array,
    constant,
    dtype_of,
    main_of,
    op_name,
    same_structure,
)
from lepton_tvm.passes.quantize.to_bfloat16 import ToBfloat16
from lepton_tvm.targets import parse_target
from tests.support.graphs import check_pass, count, graph, named, noise, skipped
from tests.support.kernels import needs

X = (1, 8, 8, 4)


def conv(x: Any, out: int, size: int = 3, seed: int = 0, **options: Any) -> Any:
    channels = int(x.ty.shape[-1]) if isinstance(x, relax.Var) else options.pop("channels")
    groups = options.get("groups", 1)
    return relax.op.nn.conv2d(
        x,
        noise(size, size, channels // groups, out, seed=seed),
        padding=[size // 2] * 4,
        data_layout="NHWC",
        kernel_layout="HWIO",
        **options,
    )


def narrowed(mod: tvm.IRModule) -> tuple[tvm.IRModule, Any]:
    return check_pass(ToBfloat16(), mod)


def kernels(mod: tvm.IRModule) -> list[tuple[str, str]]:
    lowered = pipeline.lower(mod, parse_target("x86:bf16"))
    return [(k.op, k.precision) for k in lowered.kernels]


def expected() -> tvm.IRModule:
    bias = noise(1, 1, 1, 6, seed=5)
    weights = [noise(3, 3, 4, 6), noise(1, 1, 6, 6, seed=1)]
    first, second = (
        constant(np.asarray(const_array(w)).astype(ml_dtypes.bfloat16)) for w in weights
    )
    how: dict[str, Any] = {"data_layout": "NHWC", "kernel_layout": "HWIO", "out_dtype": "float32"}

    def body(x: Any) -> Any:
        y = relax.op.nn.conv2d(relax.op.astype(x, "bfloat16"), first, padding=[1] * 4, **how)
        y = relax.op.astype(relax.op.nn.relu(relax.op.add(y, bias)), "bfloat16")
        made = relax.op.nn.conv2d(y, second, padding=[0] * 4, **how)
        return relax.op.add(made, relax.op.astype(y, "float32"))

    return graph(body, x=X)


def test_operands_and_shortcut_are_bfloat16_and_the_output_is_not() -> None:
    def body(x: Any) -> Any:
        y = relax.op.nn.relu(relax.op.add(conv(x, 6), noise(1, 1, 1, 6, seed=5)))
        return relax.op.add(conv(y, 6, 1, seed=1, channels=6), y)

    before = graph(lambda x: body(x), x=X)
    # y must be one binding, so that the shortcut and the second convolution share it
    after, report = narrowed(shared(before))
    assert report.changed == 2
    assert dict(report.numbers)["bfloat16_tensors"] == 1
    assert report.skipped == ()
    wanted = g.rewrite(shared(expected()), lambda builder, var, value: None)[0]
    tvm.ir.assert_structural_equal(after, wanted, map_free_vars=True)


def shared(mod: tvm.IRModule) -> tvm.IRModule:
    """`mod` with equal subexpressions computed once."""
    return relax.transform.EliminateCommonSubexpr()(relax.transform.Normalize()(mod))


def test_depthwise_weights_stay_float32() -> None:
    after, report = narrowed(graph(lambda x: conv(x, 4, groups=4), x=X))
    call = named(after, "nn.conv2d")[0].value
    assert (dtype_of(call.args[0]), dtype_of(call.args[1])) == ("bfloat16", "float32")
    assert report.changed == 1


def test_nothing_behind_the_last_product_is_rounded() -> None:
    def body(x: Any) -> Any:
        flat = relax.op.mean(conv(x, 6), [1, 2])
        return relax.op.nn.softmax(relax.op.matmul(flat, noise(6, 3)), -1)

    after, _ = narrowed(graph(body, x=X))
    product = named(after, "matmul")[0]
    readers = [b.value for b in bindings_of(main_of(after)) if product.var in list(reads(b.value))]
    assert [op_name(r) for r in readers] == ["relax.nn.softmax"]
    assert kernels(after)[-2:] == [("matmul", "bfloat16"), ("softmax", "float32")]


def reads(value: Any) -> list[Any]:
    return [a for a in getattr(value, "args", ()) if isinstance(a, relax.Var)]


def test_pooling_and_concat_pass_bfloat16_on() -> None:
    def body(x: Any) -> Any:
        y = conv(x, 8)
        pooled = relax.op.nn.max_pool2d(y, (2, 2), (1, 1), layout="NHWC")
        average = relax.op.nn.avg_pool2d(y, (2, 2), (1, 1), layout="NHWC")
        return conv(relax.op.concat([pooled, average], -1), 5, 1, seed=3, channels=16)

    after, report = narrowed(graph(body, x=X))
    for op in ("nn.max_pool2d", "nn.avg_pool2d", "concat"):
        assert {dtype_of(b.var) for b in named(after, op)} == {"bfloat16"}
    assert report.skipped == ()


def test_what_stays_in_float32_is_reported() -> None:
    def body(x: Any, y: Any) -> Any:
        q = relax.op.matmul(x, noise(6, 6))
        scores = relax.op.nn.softmax(relax.op.matmul(q, y), -1)
        wide = constant(np.full((5, 2), 3.4e38, np.float32))
        return relax.op.matmul(relax.op.matmul(scores, noise(5, 5, seed=2)), wide)

    after, report = narrowed(graph(body, x=(4, 6), y=(6, 5)))
    assert report.changed == 2
    assert sorted(skipped(report)) == [
        "both operands are activations",
        "computes in float32 from float32 tensors",
        "weight has values beyond the range of bfloat16",
    ]
    assert count(after, "matmul") == 4


@pytest.mark.parametrize(
    "body",
    [
        lambda x: relax.op.nn.relu(x),
        lambda x: relax.op.nn.conv2d(x, x, data_layout="NHWC", kernel_layout="HWIO"),
    ],
)
def test_a_model_without_anchors_is_left_as_it_is(body: Any) -> None:
    mod = graph(body, x=(1, 1, 1, 1))
    after, report = narrowed(mod)
    assert report.changed == 0
    assert same_structure(after, mod)


def rounded(values: Array) -> Array:
    made: Array = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    return made


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("channels", [3, 16, 40])
def test_max_pool_is_exact(pad: int, channels: int) -> None:
    needs("bf16")

    def body(x: Any) -> Any:
        y = relax.op.astype(x, "bfloat16")
        y = relax.op.nn.max_pool2d(y, (3, 3), (2, 2), (pad,) * 4, layout="NHWC")
        return relax.op.astype(y, "float32")

    rng = np.random.default_rng(channels)
    x = rng.standard_normal((2, 9, 11, channels)).astype(np.float32) * 100
    (got,) = pipeline.run(graph(body, x=x.shape), [x])
    padded = np.pad(rounded(x), ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    np.testing.assert_array_equal(got, windows[:, ::2, ::2].max((-1, -2)))


@pytest.mark.parametrize("op", ["mean", "avg_pool2d"])
def test_averages_are_rounded_once(op: str) -> None:
    needs("bf16")

    def body(x: Any) -> Any:
        y = relax.op.astype(x, "bfloat16")
        if op == "mean":
            made = relax.op.mean(y, [1, 2], keepdims=True)
        else:
            made = relax.op.nn.avg_pool2d(y, (4, 4), layout="NHWC")
        return relax.op.astype(made, "float32")

    x = np.random.default_rng(0).standard_normal((2, 4, 4, 24)).astype(np.float32)
    (got,) = pipeline.run(graph(body, x=x.shape), [x])
    exact = rounded(x).astype(np.float64).mean((1, 2), keepdims=True)
    # half a unit in the last of eight places, and the rounding of sums of 16
    assert (np.abs(got - exact) <= 2.0**-8 * np.abs(exact) + 16 * 2.0**-24 * 4).all()
