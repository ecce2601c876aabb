"""The small models of `tests/frontend/cases`: their files, samples and right answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lepton_tvm.model import Model

Array = NDArray[Any]

FOLDER = Path(__file__).parents[1] / "frontend" / "cases"


@dataclass(frozen=True)
class Case:
    """One model; `step` is the scale of its answers where it came quantized."""

    name: str
    kind: str
    step: float | None = None

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.onnx"

    def inputs(self, model: Model) -> list[Array]:
        """The sample, in the order of the model's inputs."""
        with np.load(FOLDER / f"{self.name}.npz") as held:
            return [held[f"in:{info.name}"] for info in model.inputs]

    def answers(self) -> list[Array]:
        with np.load(FOLDER / f"{self.name}.npz") as held:
            count = sum(name.startswith("out:") for name in held)
            return [held[f"out:{i}"] for i in range(count)]

    def check(self, got: Sequence[Array]) -> None:
        """Shapes, types and values of all answers; NaN and infinities where they belong."""
        wanted = self.answers()
        assert [(a.shape, a.dtype) for a in got] == [(a.shape, a.dtype) for a in wanted]
        for ours, right in zip(got, wanted, strict=True):
            values = right.astype(np.float64)
            np.testing.assert_allclose(
                ours.astype(np.float64), values, rtol=0, atol=self._allowed(right)
            )

    def _allowed(self, right: Array) -> float:
        """2e-4 of the largest answer; one step where answers are quantized, none for bool."""
        if right.dtype.kind != "f":
            return float(self.kind in ("qdq", "qlinear", "quantizer"))
        finite = np.abs(right[np.isfinite(right)].astype(np.float64))
        return max(2e-4 * float(finite.max(initial=0.0)), self.step or 0.0)


def _read() -> dict[str, Case]:
    rows = json.loads((FOLDER / "cases.json").read_text())
    return {row["case"]: Case(row["case"], row["kind"], row.get("step")) for row in rows}


CASES = _read()


@dataclass(frozen=True)
class Failing:
    """Cases that fail today for one reason, and the error by which they do."""

    error: type[BaseException]
    why: str
    cases: tuple[str, ...]


def with_failures(names: Sequence[str], failing: Sequence[Failing]) -> list[Any]:
    """`names` as parameters of a test; a case that fails is expected to, in that very way."""
    rows = {name: row for row in failing for name in row.cases}
    assert len(rows) == sum(len(row.cases) for row in failing), "a case stands in two rows"
    assert set(rows) <= set(names), f"unknown: {sorted(set(rows) - set(names))}"
    return [pytest.param(name, marks=_mark(rows[name]) if name in rows else ()) for name in names]


def _mark(row: Failing) -> pytest.MarkDecorator:
    return pytest.mark.xfail(raises=row.error, strict=True, reason=row.why)
