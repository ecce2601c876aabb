"""Channel pruning over random graphs: shapes agree everywhere, widths are rounded, MACs fall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lepton_tvm.ir.cost import macs, params
from lepton_tvm.ir.graph import Expr, main_of
from lepton_tvm.passes.prune.channels.prune_channels import PruneChannels
from tests.support.networks import Net, build, image, masked, run
from tests.support.shape_checks import check_shapes

STEPS = ("conv", "residual", "depthwise", "concat", "gate", "grouped", "pool", "bias", "nchw")


@dataclass(frozen=True)
class Recipe:
    """A random network: the kind and width of every step, then the head."""

    steps: tuple[tuple[str, int], ...]
    flatten: bool
    seed: int

    def __call__(self, n: Net, x: Expr) -> Expr:
        x = n.op("relu", n.conv(x, 16))
        for kind, width in self.steps:
            x = self._step(n, x, kind, width)
        if not self.flatten:
            return n.head(x)
        flat = int(np.prod([int(d) for d in x.ty.shape]))
        return n.dense(n.op("reshape", x, (1, flat)), 5)

    def _step(self, n: Net, x: Expr, kind: str, width: int) -> Expr:
        channels = n.channels(x)
        if kind == "conv":
            return n.op("relu", n.conv(x, width))
        if kind == "residual":
            inner = n.op("relu", n.conv(x, width))
            return n.op("relu", n.op("add", x, n.conv(inner, channels)))
        if kind == "depthwise":
            return n.op("clip", n.conv(x, channels, groups=channels), 0.0, 6.0)
        if kind == "concat":
            return n.op("concat", [x, n.op("relu", n.conv(x, width, 1))], axis=3)
        if kind == "gate":
            return n.gate(x, width)
        if kind == "grouped":
            return n.op("relu", n.conv(x, width, groups=4))
        if kind == "pool":
            return n.op("max_pool2d", x, (2, 2), (1, 1), (0, 0, 1, 1), layout="NHWC")
        if kind == "bias":
            return n.bias(x)
        inner = n.op("permute_dims", x, [0, 3, 1, 2])
        return n.op("permute_dims", n.op("relu", inner), [0, 2, 3, 1])


RECIPES = st.builds(
    Recipe,
    st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from([8, 16, 24])), max_size=5).map(
        tuple
    ),
    st.booleans(),
    st.integers(0, 999),
)


@settings(max_examples=40, deadline=None)
@example(
    recipe=Recipe((("concat", 8), ("grouped", 8)), False, 0), ratio=0.5, round_to=1, scope="group"
)
@given(
    recipe=RECIPES,
    ratio=st.floats(0.05, 0.95),
    round_to=st.sampled_from([1, 4, 8, 16]),
    scope=st.sampled_from(["group", "global"]),
)
def test_shapes_stay_consistent(recipe: Recipe, ratio: float, round_to: int, scope: str) -> None:
    mod = build(recipe, seed=recipe.seed)
    pruning = PruneChannels(ratio=ratio, round_to=round_to, scope=scope)
    plan = pruning.plan(mod)
    small, report = pruning.apply(mod, plan)
    check_shapes(small)
    assert main_of(small).ret_ty == main_of(mod).ret_ty
    numbers = dict(report.numbers)
    assert numbers["macs_after"] == macs(small)
    assert numbers["params_after"] == params(small)
    for decision in plan.decisions:
        assert decision.kept_channels >= 1
        assert (decision.reason is None) == (decision.removed.size > 0)
        if decision.removed.size:
            assert decision.kept_channels % round_to == 0
    if report.changed:
        assert macs(small) < macs(mod)
        assert params(small) < params(mod)
    else:
        assert len(report.skipped) == len(plan.decisions)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(recipe=RECIPES, ratio=st.floats(0.2, 0.8))
def test_numbers_are_those_of_the_masked_network(recipe: Recipe, ratio: float) -> None:
    mod = build(recipe, seed=recipe.seed)
    pruning = PruneChannels(ratio=ratio, round_to=4)
    plan = pruning.plan(mod)
    small, _ = pruning.apply(mod, plan)
    x = image(mod, recipe.seed)
    expected = run(masked(mod, plan.flow, plan.removed), x)
    # only the order of float32 sums differs
    scale = 1 + float(np.abs(expected).max())
    np.testing.assert_allclose(run(small, x), expected, rtol=0, atol=1e-4 * scale)
