"""The three artifacts of the demo: float, int8, and pruned + int8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lepton_tvm.compiler.compile import compile as build
from lepton_tvm.compression.prune import compress
from lepton_tvm.compression.quantize import quantize
from lepton_tvm.demo.assets import calibration, model_path
from lepton_tvm.frontend import load_model
from lepton_tvm.model import Model

__all__ = ["PRUNE_RATIO", "build_variants"]

#: The share of all channels, ranked together, that the pruned variant loses.
PRUNE_RATIO = 0.27
# What is left fills whole registers of 16 lanes.
_ROUND_TO = 16


def build_variants(
    db: Any = None,
    *,
    target: str = "native",
    ratio: float = PRUNE_RATIO,
    notify: Callable[[str], None] = lambda step: None,
) -> Model:
    """Compile the demo's model in three ways into the database; the float model is returned.

    `db` is a database or its URL, `notify` is told what comes next. Raises what the stages raise.
    """
    notify("loading the model")
    model = load_model(model_path())
    samples = calibration()
    notify("compiling float32")
    build(model, target=target, db=db)
    notify(f"quantizing with {len(samples['input'])} pictures")
    quantized = quantize(model, samples)
    notify("compiling int8")
    build(quantized, target=target, db=db)
    notify(f"removing {ratio:.0%} of the channels, quantizing the rest")
    pruned = compress(model, method="channels", ratio=ratio, round_to=_ROUND_TO)
    smaller = quantize(pruned, samples)
    notify("compiling pruned + int8")
    build(smaller, target=target, db=db)
    return model
