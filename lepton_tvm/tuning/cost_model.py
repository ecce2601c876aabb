"""Predicts how a schedule compares with the zero-trial one of its task, from a few numbers.

XGBoost's regression trees over what describes the task (work, bytes, kind) and what was decided.
The target is the logarithm of zero-trial latency over the candidate's, both timed in turns, so that
records of different tasks, moments and machines can be learned from together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xgboost

from lepton_tvm.compiler.kernel_info import KernelInfo
from lepton_tvm.ir.graph import Array
from lepton_tvm.ir.precisions import FLOAT32, PRECISIONS
from lepton_tvm.tuning.trees import Trees

__all__ = ["CHOICES", "KIND", "WIDTH", "CostModel", "features"]

_KERNELS = ("conv2d", "matmul", "depthwise_conv2d", "winograd_conv2d", "batch_matmul")
_NARROW = tuple(name for name in PRECISIONS if name != FLOAT32.name)
_TILE = ("tile_rows", "tile_lanes", "tile_vectors", "winograd_tile", "winograd_group", "matrix")
#: The choice points that the model knows; others are one number of how many differ.
CHOICES = (
    "channel_blocks_outermost",
    "column_blocks_outermost",
    "lines",
    "lines_at_once",
    "tiles_at_once",
    "registers",
    "pack_per_matrix",
    "parallel",
    "prefetch_weights",
    "rows",
    "shares",
    "unroll_depth",
    "unroll_epilogue",
    "upstream_sample",
)
#: Names the features and the target; changes with them, so that a stored model fits or is not used.
KIND = "xgboost-speedup-2"
#: How many numbers `features` gives.
WIDTH = 24 + len(_NARROW) + len(CHOICES)
_LEAST_RECORDS = 24
_ROUNDS = 80
_PARAMETERS = {
    "max_depth": 6,
    "eta": 0.15,
    "min_child_weight": 1,
    "subsample": 0.9,
    "objective": "reg:squarederror",
    "base_score": 0.0,
    "nthread": 1,
    "verbosity": 0,
}


def features(info: KernelInfo, plan: Mapping[str, int], choices: Mapping[str, int]) -> list[float]:
    """The numbers that the model sees for one schedule of a kernel; NaN: does not apply.

    `plan` are all decisions of its lowering, `choices` those of the schedule that differ from the
    default.
    """
    out = info.output_shape
    channels = out[-1] if out else 1
    width = out[-2] if len(out) > 1 else 1
    rows = math.prod(out[:-1]) if out else 1
    tile = [float(plan.get(n, math.nan)) for n in _TILE]
    made = [
        math.log2(1 + info.macs),
        math.log2(1 + info.weight_bytes),
        math.log2(1 + info.bytes),
        math.log2(1 + channels),
        math.log2(1 + width),
        math.log2(1 + rows),
        *(float(info.precision == p) for p in _NARROW),
        *(float(info.op == k) for k in _KERNELS),
        *tile,
    ]
    if plan:
        block = plan["tile_lanes"] * plan["tile_vectors"]
        made += [
            float(plan["tile_rows"] * plan["tile_vectors"]),
            float(block),
            -(-channels // block) * block / channels,
            -(-width // plan["tile_rows"]) * plan["tile_rows"] / width,
            -(-rows // plan["tile_rows"]) * plan["tile_rows"] / rows,
            info.weight_bytes / max(1, -(-channels // block)),
        ]
    else:
        made += [math.nan] * 6
    known = {n: float(v) for n, v in choices.items() if n in CHOICES}
    made += [known.get(n, -1.0) for n in CHOICES]
    made.append(float(len(choices) - len(known)))
    return made


@dataclass
class CostModel:
    """Regression trees, once there are records enough; until then it predicts nothing."""

    trees: Trees | None = None

    def fit(self, rows: Sequence[Sequence[float]], speedups: Sequence[float]) -> None:
        """Learn from speed-ups over the zero-trial schedule (0: a trial that failed)."""
        if len(rows) < _LEAST_RECORDS:
            return
        target = np.log([min(max(s, 0.1), 10.0) for s in speedups])
        data = xgboost.DMatrix(np.asarray(rows, np.float32), label=target, missing=math.nan)
        booster = xgboost.train(_PARAMETERS, data, num_boost_round=_ROUNDS)
        self.trees = Trees.from_dump(booster.get_dump(dump_format="json"), WIDTH)

    def predict(self, rows: Sequence[Sequence[float]] | Array) -> Array | None:
        """Expected speed-ups over the zero-trial schedule; None before anything was learned."""
        if self.trees is None or len(rows) == 0:
            return None
        made: Array = np.exp(self.trees.predict(rows))
        return made

    def to_bytes(self) -> bytes | None:
        """The trees as JSON; None before anything was learned."""
        return self.trees.to_bytes() if self.trees is not None else None

    @classmethod
    def from_bytes(cls, data: bytes) -> CostModel:
        """A model that `to_bytes` gave; an empty one where it does not fit these features."""
        trees = Trees.from_bytes(data)
        return cls(trees if trees is not None and trees.width == WIDTH else None)
