"""The immutable model that every stage takes and returns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tvm

__all__ = ["Model", "Step", "TensorInfo"]

_FLOAT = "float32"


@dataclass(frozen=True)
class TensorInfo:
    """One input or output: name, static shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TensorInfo:
        """The inverse of `to_json`."""
        return cls(data["name"], tuple(int(d) for d in data["shape"]), data["dtype"])


@dataclass(frozen=True)
class Step:
    """One thing that was done to a model: a name, its options, and the reports of its passes.

    `options` and `reports` hold JSON values only, so that a recipe can be stored as text.
    """

    name: str
    options: dict[str, Any]
    reports: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return {"name": self.name, "options": self.options, "reports": list(self.reports)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Step:
        """The inverse of `to_json`."""
        return cls(data["name"], dict(data["options"]), tuple(data["reports"]))


@dataclass(frozen=True, eq=False)
class Model:
    """A Relax module in canonical form with the facts that travel with it.

    `module` has one function `main`: weights are constants, spatial ops are NHWC. A model is never
    changed; `derive` makes the next one and appends what was done to `recipe`. `precision` is the
    name of its scheme (see `passes/quantize/schemes.py`).
    """

    module: tvm.IRModule
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    name: str
    source_sha256: str
    recipe: tuple[Step, ...] = ()
    calibration_sha256: str | None = None
    precision: str = _FLOAT

    def derive(self, module: tvm.IRModule, step: Step, **changes: Any) -> Model:
        """The model that `step` made of this one; `changes` replaces further fields."""
        return dataclasses.replace(self, module=module, recipe=(*self.recipe, step), **changes)

    @property
    def report(self) -> tuple[Step, ...]:
        """What was done, skipped and why, in order."""
        return self.recipe

    @property
    def is_quantized(self) -> bool:
        """Whether the model computes in something narrower than float32, made so here or before."""
        return self.precision != _FLOAT

    def to_json(self) -> dict[str, Any]:
        """Everything but the weights and the code."""
        return {
            "name": self.name,
            "precision": self.precision,
            "inputs": [t.to_json() for t in self.inputs],
            "outputs": [t.to_json() for t in self.outputs],
            "source_sha256": self.source_sha256,
            "calibration_sha256": self.calibration_sha256,
            "recipe": [s.to_json() for s in self.recipe],
        }

    def __repr__(self) -> str:
        ins = ", ".join(f"{t.name}{list(t.shape)}" for t in self.inputs)
        outs = ", ".join(f"{t.name}{list(t.shape)}" for t in self.outputs)
        steps = " -> ".join(s.name for s in self.recipe) or "as loaded"
        return f"Model({self.name!r}, {ins} -> {outs}, {self.precision}, {steps})"
