"""Channel pruning: the shrunk graph is the zero-masked original, and refusals say why."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from lepton_tvm.errors import InputError
from lepton_tvm.ir.cost import macs, params
from lepton_tvm.ir.graph import Expr, bindings_of, main_of, same_structure
from lepton_tvm.passes.base import PassReport
from lepton_tvm.passes.prune.channels.prune_channels import PruneChannels
from tests.support.channel_networks import (
    NETWORKS,
    attention,
    chain,
    concat_then_add,
    residual,
)
from tests.support.networks import Net, build, image, masked, run, shapes


@pytest.mark.parametrize("make", NETWORKS, ids=lambda f: f.__name__)
def test_the_shrunk_network_is_the_masked_one(make: Callable[[Net, Expr], Expr]) -> None:
    mod = build(make)
    before = mod.clone()
    pruning = PruneChannels(ratio=0.4, round_to=4, scope="group")
    plan = pruning.plan(mod)
    small, report = pruning.apply(mod, plan)

    assert same_structure(mod, before), "the input module was changed"
    relax.analysis.well_formed(small)  # raises
    assert report.changed >= 1
    assert macs(small) < macs(mod)
    assert params(small) < params(mod)
    x = image(mod)
    expected = run(masked(mod, plan.flow, plan.removed), x)
    # float32 sums of at most 9 * 64 terms near 1, only the order differs
    np.testing.assert_allclose(run(small, x), expected, rtol=1e-4, atol=1e-4)


def test_shapes_names_and_report() -> None:
    mod = build(chain)
    small, report = PruneChannels(ratio=0.25, round_to=4, scope="group")(mod)
    widths = {name: shape[-1] for name, shape in shapes(small).items() if "conv" in name}
    # 24 * 0.75 = 18 lies halfway between 16 and 20, and a tie keeps more
    assert widths == {"conv2d_0": 12, "conv2d_1": 20}
    assert list(shapes(small)) == [name for name in shapes(mod) if name != "gv"]
    numbers = dict(report.numbers)
    assert numbers["macs_after"] == macs(small)
    assert numbers["macs_before"] == macs(mod)
    assert numbers["params_after"] == params(small)
    assert "conv2d_0: 16 -> 12 channels" in report.notes
    assert [(s.name, s.reason) for s in report.skipped] == [
        ("matmul_0", "reaches the graph output 'gv'")
    ]


def test_channels_of_a_residual_stream_leave_together() -> None:
    _, report = PruneChannels(ratio=0.5, scope="group")(build(residual))
    assert "conv2d_0+conv2d_2: 16 -> 8 channels" in report.notes
    assert "conv2d_4+conv2d_5: 32 -> 16 channels" in report.notes


def test_parts_of_a_concatenation_keep_their_own_widths() -> None:
    small, report = PruneChannels(ratio=0.5, scope="group")(build(concat_then_add))
    assert shapes(small)["concat_0"][-1] == 8 + 16  # 24 * 0.5 = 12, a tie, keeps 16
    assert "conv2d_0+conv2d_2: 16 -> 8 channels" in report.notes


def test_the_least_important_channels_go() -> None:
    def make(n: Net, x: Expr) -> Expr:
        kernel = n.array(3, 3, 8, 16)
        kernel[..., [1, 4, 5, 15]] *= 1e-3
        conv = relax.op.nn.conv2d(
            x, relax.const(kernel), padding=1, data_layout="NHWC", kernel_layout="HWIO"
        )
        return n.head(n.op("relu", n.emit("conv2d", conv)))

    mod = build(make)
    pruning = PruneChannels(ratio=0.25, round_to=4, scope="group")
    plan = pruning.plan(mod)
    made = plan.flow.weights[0].made
    assert made is not None
    gone = np.flatnonzero(np.isin(made, plan.removed))
    assert gone.tolist() == [1, 4, 5, 15]


def test_equal_channels_are_removed_from_the_end() -> None:
    def make(n: Net, x: Expr) -> Expr:
        weight = relax.const(np.ones((1, 1, 8, 16), "float32"))
        x = relax.op.nn.conv2d(x, weight, data_layout="NHWC", kernel_layout="HWIO")
        x = relax.op.mean(n.emit("conv2d", x), axis=[1, 2])
        return n.emit("matmul", relax.op.matmul(x, relax.const(np.ones((16, 3), "float32"))))

    pruning = PruneChannels(ratio=0.25, round_to=4, scope="group")
    plan = pruning.plan(build(make))
    assert plan.removed.tolist() == [12, 13, 14, 15]


def test_global_scope_takes_more_from_the_weaker_layer() -> None:
    def make(n: Net, x: Expr) -> Expr:
        a = n.conv(x, 16)
        weak = n.array(3, 3, 16, 32)
        weak[..., 8:] *= 1e-4
        conv = relax.op.nn.conv2d(
            a, relax.const(weak), padding=1, data_layout="NHWC", kernel_layout="HWIO"
        )
        return n.head(n.op("relu", n.emit("conv2d", conv)))

    small, _ = PruneChannels(ratio=0.5, scope="global")(build(make))
    assert shapes(small)["conv2d_1"][-1] == 8
    assert shapes(small)["conv2d_0"][-1] == 16


def test_l1_and_l2_norms_may_differ_but_both_shrink() -> None:
    mod = build(residual)
    for norm in ("l1", "l2"):
        small, _ = PruneChannels(ratio=0.5, norm=norm, scope="group")(mod)
        assert macs(small) < macs(mod)


def test_attention_keeps_what_softmax_and_outputs_need() -> None:
    mod = build(attention)
    pruning = PruneChannels(ratio=0.4, round_to=4, scope="group")
    plan = pruning.plan(mod)
    small, _ = pruning.apply(mod, plan)
    assert shapes(small)["matmul_0"] == (1, 36, 16)  # query and key lose the same features
    assert shapes(small)["matmul_1"] == (1, 36, 16)
    assert run(small, image(mod)).shape == (1, 5)


def reason_of(mod: tvm.IRModule, name: str, **options: float) -> str:
    _, report = PruneChannels(**{"ratio": 0.5, "scope": "group", **options})(mod)  # type: ignore[arg-type]
    return _reason(report, name)


def _reason(report: PassReport, name: str) -> str:
    return next(s.reason for s in report.skipped if name in s.name.split("+"))


REFUSALS: list[tuple[str, str, Callable[[Net, Expr], Expr]]] = [
    ("conv2d_0", r"reaches the graph output 'gv'", lambda n, x: n.conv(x, 16)),
    (
        "conv2d_0",
        r"is reduced over by 'sum_0' \(relax.sum\)",
        lambda n, x: n.op("sum", n.conv(x, 16), axis=[3]),
    ),
    (
        "conv2d_0",
        r"is normalised over by 'softmax_0' \(relax.nn.softmax\)",
        lambda n, x: n.op("softmax", n.conv(x, 16), axis=-1),
    ),
    (
        "conv2d_0",
        r"is split or mixed with another axis by 'reshape_0' \[1, 6, 6, 16\] -> \[1, 36, 4, 4\]",
        lambda n, x: n.op("reshape", n.conv(x, 16), (1, 36, 4, 4)),
    ),
    (
        "conv2d_0",
        r"meets an axis that cannot shrink in 'add_1' \(relax.add\)",
        lambda n, x: n.head(n.op("add", n.conv(x, 8), x)),
    ),
    (
        "conv2d_0",
        r"reaches 'cumsum_0' \(relax.cumsum\), which is not known to channel pruning",
        lambda n, x: n.head(n.op("cumsum", n.conv(x, 16), axis=1)),
    ),
    (
        "conv2d_0",
        r"meets an axis that cannot shrink in 'concat_0' \(relax.concat\)",
        lambda n, x: n.head(
            n.op("concat", [relax.const(n.array(1, 1, 6, 16)), n.conv(x, 16)], axis=1)
        ),
    ),
    (
        "conv2d_0",
        r"reaches the graph output 'add_0'",
        lambda n, x: relax.Tuple([n.conv(x, 16), n.head(x)]),
    ),
    (
        "conv2d_0",
        r"is padded by 'pad_0'",
        lambda n, x: n.head(n.op("pad", n.conv(x, 16), [0, 0, 0, 0, 0, 0, 2, 2])),
    ),
    (
        "conv2d_0",
        r"is sliced with step 2 by 'strided_slice_0'",
        lambda n, x: n.head(n.op("strided_slice", n.conv(x, 16), [3], [0], [16], [2])),
    ),
    (
        "conv2d_0",
        r"is contracted in 'matmul_0' with an axis that cannot shrink",
        lambda n, x: n.op(
            "matmul",
            n.op("reshape", n.conv(x, 16), (36, 16)),
            n.op("reshape", n.op("strided_slice", x, [1, 2], [0, 0], [2, 1], [1, 1]), (16, 1)),
        ),
    ),
    (
        "conv2d_0",
        r"'conv2d_0' makes a single channel",
        lambda n, x: n.head(n.conv(n.op("relu", n.conv(x, 1)), 8)),
    ),
    (
        "conv2d_0",
        r"has 8 channels; with round_to=8 none can go",
        lambda n, x: n.head(n.conv(x, 8)),
    ),
]


@pytest.mark.parametrize(("name", "pattern", "make"), REFUSALS, ids=[r[1][:30] for r in REFUSALS])
def test_every_refusal_gives_its_reason(
    name: str, pattern: str, make: Callable[[Net, Expr], Expr]
) -> None:
    mod = build(make)
    small, report = PruneChannels(ratio=0.5, scope="group")(mod)
    assert re.search(pattern, _reason(report, name))
    relax.analysis.well_formed(small)
    assert [b.var.ty for b in bindings_of(main_of(small))][:1] == (
        [b.var.ty for b in bindings_of(main_of(mod))][:1]
    ), "a group that must stay was cut"


def test_a_ratio_that_rounds_to_nothing_says_so() -> None:
    reason = reason_of(build(chain), "conv2d_0", ratio=0.1)
    expected = "would lose 1.6 of 16 channels, which is nothing when rounded to multiples of 8"
    assert reason == expected


def test_a_grouped_transposed_convolution_keeps_its_input() -> None:
    def make(n: Net, x: Expr) -> Expr:
        x = n.conv(x, 16)
        kernel = relax.const(n.array(16, 4, 2, 2))
        layouts = {"data_layout": "NHWC", "kernel_layout": "IOHW", "out_layout": "NHWC"}
        x = n.op("conv2d_transpose", x, kernel, strides=(2, 2), groups=2, **layouts)
        return n.head(x)

    assert "is a grouped transposed convolution" in reason_of(build(make), "conv2d_0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, r"ratio is 0\.0, but must be between 0 and 1"),
        ({"ratio": 1.0}, r"ratio is 1\.0, but must be"),
        ({"ratio": float("nan")}, r"ratio is nan, but must be"),
        ({"ratio": 0.5, "round_to": 0}, r"round_to is 0, but must be at least 1"),
        ({"ratio": 0.5, "scope": "layer"}, r"unknown scope 'layer'; known: group, global"),
        ({"ratio": 0.5, "norm": "l3"}, r"unknown norm 'l3'; known: l2, l1"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PruneChannels(**options)  # type: ignore[arg-type]
