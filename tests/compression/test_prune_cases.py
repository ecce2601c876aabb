"""Small models of which a quarter of the channels is dead: pruning takes these, or none at all.

Either way the answers stay what they were. What fails is listed by reason, as in
`tests/frontend/test_cases.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from lepton_tvm.compiler import pipeline
from lepton_tvm.compression.prune import compress
from lepton_tvm.frontend import load_model
from tests.support.model_cases import CASES, Failing, with_failures

_PRUNED = [name for name, case in CASES.items() if case.kind == "prune"]

#: Models whose channels become a side of the picture that is given out: nothing may go.
_NONE_MAY_GO = {"p_turned_conv_pointwise", "p_turned_depthwise", "p_turned_conv_transpose"}

_NOT_FOLLOWED = (
    Failing(
        AssertionError,
        "channels are not followed through a split into heads or groups, so none goes",
        ("p_channel_shuffle", "p_attention_heads"),
    ),
    Failing(
        AssertionError,
        "a transposition that turns channels into rows is not seen",
        ("p_turned_conv_pointwise", "p_turned_depthwise"),
    ),
    Failing(
        ValueError,
        "a transposition that turns channels into rows is not seen",
        ("p_turned_conv_transpose",),
    ),
    Failing(
        ValueError, "a slice that runs backwards loses the channels", ("p_slice_channels_reversed",)
    ),
)

_READERS_WEIGH = Failing(
    AssertionError,
    "a dead channel counts by the weights of its readers",
    ("p_dead_output_but_readers_weigh",),
)


def check(name: str, **options: Any) -> None:
    case = CASES[name]
    model = load_model(case.path)
    inputs = case.inputs(model)
    if options.pop("with_data", False):
        options["calibration"] = [dict(zip((i.name for i in model.inputs), inputs, strict=True))]
    small = compress(model, method="channels", ratio=0.3, **options)
    changed = small.recipe[-1].reports[0]["changed"]
    assert (changed == 0) == (name in _NONE_MAY_GO)
    case.check(pipeline.run(small.module, inputs))


@pytest.mark.parametrize("name", with_failures(_PRUNED, (*_NOT_FOLLOWED, _READERS_WEIGH)))
def test_dead_channels_by_weights(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", with_failures(_PRUNED, _NOT_FOLLOWED))
def test_dead_channels_by_data(name: str) -> None:
    check(name, with_data=True)
