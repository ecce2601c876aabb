"""The schemes that a model can be computed in: one row each, which everybody asks.

A scheme that is added is a row here and the pass that writes it. Where its kernels compute in
something new, they need a row in `ir/precisions.py` too, and lowering that makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lepton_tvm.ir import precisions
from lepton_tvm.ir.precisions import Precision
from lepton_tvm.targets import Level

__all__ = ["BFLOAT16", "FLOAT32", "INT8", "SCHEMES", "Scheme"]


def _on_any(_level: Level) -> bool:
    return True


def _with_bfloat16(level: Level) -> bool:
    return level.bf16


@dataclass(frozen=True)
class Scheme:
    """How weights and activations are stored, and what kernels compute in.

    `precision` holds the element types. `weight_bits`, `activation_bits` and `sum_bits` are what a
    user may choose of, the default first. `ranges` is `static` where calibration data gives them,
    empty where the types need none. Scales are one per output `channel` or one per `tensor`.
    `method` is the scheme's name in `quantize(method=...)`, `spellings` those of `--quantize`, the
    one that messages use first; both are empty for the float model. `writer` names the pass that
    writes it into the graph. `runs_on` says whether a level of a target has kernels for it.

    Tolerances are shares of the largest output: how far a tuned kernel, or a whole tuned model,
    may be from the untuned one. Sums may be ordered otherwise, Winograd's method rounds more often,
    and one difference in a float kernel may move a quantized value by a step. Wrong kernels are off
    by more.

    Raises ValueError for a scheme that nobody can ask for, or that no pass writes.
    """

    name: str
    precision: Precision
    weight_bits: tuple[int, ...]
    activation_bits: tuple[int, ...]
    sum_bits: tuple[int, ...]
    kernel_tolerance: float
    model_tolerance: float
    ranges: str = ""
    weight_scales: str = ""
    activation_scales: str = ""
    method: str = ""
    spellings: tuple[str, ...] = ()
    writer: str = ""
    runs_on: Callable[[Level], bool] = _on_any

    def __post_init__(self) -> None:
        if len({bool(self.method), bool(self.spellings), bool(self.writer)}) != 1:
            raise ValueError(f"{self.name} needs all of method, spellings and writer, or none")
        if self.ranges not in ("", "static"):
            raise ValueError(f"{self.name}: ranges cannot be {self.ranges!r}")
        if not {self.weight_scales, self.activation_scales} <= {"", "channel", "tensor"}:
            raise ValueError(f"{self.name}: scales are per channel or per tensor")

    @property
    def is_calibrated(self) -> bool:
        """Whether it needs typical inputs."""
        return self.ranges == "static"


FLOAT32 = Scheme(
    "float32",
    precisions.FLOAT32,
    weight_bits=(32,),
    activation_bits=(32,),
    sum_bits=(32,),
    kernel_tolerance=1e-4,
    model_tolerance=1e-3,
)
INT8 = Scheme(
    "int8",
    precisions.INT8,
    weight_bits=(8, 7),
    activation_bits=(8,),
    sum_bits=(32, 16),
    kernel_tolerance=1e-4,
    model_tolerance=0.05,
    ranges="static",
    weight_scales="channel",
    activation_scales="tensor",
    method="uniform",
    spellings=("int8",),
    writer="insert-qdq",
)
BFLOAT16 = Scheme(
    "bfloat16",
    precisions.BFLOAT16,
    weight_bits=(16,),
    activation_bits=(16,),
    sum_bits=(32,),
    kernel_tolerance=4e-2,
    model_tolerance=0.1,
    method="bfloat16",
    spellings=("bf16", "bfloat16"),
    writer="to-bfloat16",
    runs_on=_with_bfloat16,
)

#: Name -> row.
SCHEMES: dict[str, Scheme] = {s.name: s for s in (FLOAT32, INT8, BFLOAT16)}
