"""Finding the ranges of activations by running the float model over samples, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lepton_tvm.compiler import pipeline
from lepton_tvm.errors import InputError
from lepton_tvm.ir import graph as g
from lepton_tvm.model import Model
from lepton_tvm.passes.quantize.annotate import annotate
from lepton_tvm.passes.quantize.config import CALIBRATORS
from lepton_tvm.passes.quantize.histogram import Histogram

if TYPE_CHECKING:
    import tvm

__all__ = ["Executor", "Range", "collect_ranges"]

Array = npt.NDArray[Any]
#: Module -> function from input arrays (in parameter order) to output arrays.
Executor = Callable[["tvm.IRModule"], Callable[[Sequence[Array]], list[Array]]]

_MEMORY = 256 << 20  # bytes of tapped activations that one run may hand back


@dataclass(frozen=True)
class Range:
    """What calibration saw of one tensor.

    `low` and `high` are what the method chose, `smallest` and `largest` what was really seen;
    `channel_mean` is the mean per channel of the last axis, float32 [C].
    """

    low: float
    high: float
    smallest: float
    largest: float
    channel_mean: Array
    count: int

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the numbers, without the means."""
        return {
            "low": self.low,
            "high": self.high,
            "smallest": self.smallest,
            "largest": self.largest,
            "count": self.count,
        }


def collect_ranges(
    model: Model,
    samples: Iterable[dict[str, Array]],
    *,
    method: str = "minmax",
    percentile: float = 99.99,
    tensors: Sequence[str] | None = None,
    executor: Executor | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Range]:
    """Run `model` over `samples` once and return the range of each tensor, by name.

    `tensors` are names of bindings and inputs (default: all that quantization needs). `method` is
    one of `CALIBRATORS`. Memory is bounded: a tensor leaves a min, a max, a mean per channel and
    (unless `minmax`) a histogram of fixed size behind. Models whose activations are large are run
    in several parts, so that one sample's taps stay below 256 MiB. `progress` is told how many
    samples are done; `executor` (default: `pipeline.executor`) makes a module runnable.

    Raises `InputError` for an unknown method or tensor, no samples, and NaN or infinity.
    """
    if method not in CALIBRATORS:
        raise InputError(f"unknown calibrator {method!r}; choose one of {', '.join(CALIBRATORS)}")
    names = list(annotate(model.module).measured) if tensors is None else list(tensors)
    order = [p.name for p in g.main_of(model.module).params]
    wanted = [n for n in names if n not in order]
    parts = [
        (part, (executor or pipeline.executor)(g.with_named_outputs(model.module, part)))
        for part in _split(model.module, wanted)
    ]
    seen = {n: _Statistics(n, method, percentile) for n in names}
    done = 0
    for sample in samples:
        arrays = [sample[n] for n in order]
        for name in set(names) & set(order):
            seen[name].add(sample[name])
        for part, run in parts:
            for name, array in zip(part, run(arrays), strict=True):
                seen[name].add(array)
        done += 1
        if progress:
            progress(done)
    if not done:
        raise InputError("calibration needs at least one sample, found none")
    return {n: s.result() for n, s in seen.items()}


class _Statistics:
    """Streaming min, max, mean per channel and histogram of one tensor."""

    def __init__(self, name: str, method: str, percentile: float) -> None:
        self.name, self.method, self.percentile = name, method, percentile
        self.low, self.high = np.inf, -np.inf
        self.sum: Array | float = 0.0
        self.rows = 0
        self.count = 0
        self.histogram = None if method == "minmax" else Histogram()

    def add(self, array: Array) -> None:
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(
                f"the float model computes NaN or infinity at '{self.name}' on this sample; "
                "check the weights and the scale of the input data"
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        flat = array.reshape(-1, array.shape[-1] if array.ndim else 1)
        self.sum = self.sum + flat.sum(axis=0, dtype=np.float64)
        self.rows += flat.shape[0]
        self.count += array.size
        if self.histogram is not None:
            self.histogram.add(array)

    def result(self) -> Range:
        low, high = self.low, self.high
        if self.histogram is not None:
            found = (
                self.histogram.percentile_range(self.percentile)
                if self.method == "percentile"
                else self.histogram.least_error_range()
            )
            low, high = max(low, found[0]), min(high, found[1])
        means = (np.asarray(self.sum) / self.rows).astype(np.float32)
        return Range(low, high, self.low, self.high, means, self.count)


def _split(module: tvm.IRModule, names: Sequence[str]) -> list[list[str]]:
    """Groups of tensors whose values together fit the memory limit, in program order."""
    sizes = {}
    for var in g.definitions(g.main_of(module)):
        if var.name in set(names):
            sizes[var.name] = int(np.prod(g.shape_of(var), dtype=np.int64)) * 4
    unknown = sorted(set(names) - set(sizes))
    if unknown:
        raise InputError(f"the model has no tensor named {', '.join(map(repr, unknown[:5]))}")
    parts: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not parts or size > room:
            parts.append([])
            room = _MEMORY
        parts[-1].append(name)
        room -= size
    return parts
