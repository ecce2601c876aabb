"""What kernels can compute in: one row per arithmetic, with its element types.

How a model comes to be in one is said by the schemes of `passes/quantize/schemes.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BFLOAT16",
    "FLOAT32",
    "INT8",
    "PRECISIONS",
    "SUFFIXES",
    "Precision",
    "reading",
    "suffix_of",
]


@dataclass(frozen=True)
class Precision:
    """One arithmetic of kernels.

    `data`, `weight` and `sums` are the element types of activations, weights and results.
    `per_lane` neighbours of a sum fill a lane of 32 bits: where there is an instruction for them,
    it multiplies and adds that many at once. `suffix` ends the names of its kernels.

    Raises ValueError for values that do not fill a lane.
    """

    name: str
    data: str
    weight: str
    sums: str
    per_lane: int = 1
    suffix: str = ""

    def __post_init__(self) -> None:
        if self.per_lane not in (1, 2, 4, 8):
            raise ValueError(f"{self.name}: {self.per_lane} values do not fill a 32-bit lane")


FLOAT32 = Precision("float32", "float32", "float32", "float32")
INT8 = Precision("int8", "uint8", "int8", "int32", per_lane=4, suffix="_int8")
BFLOAT16 = Precision("bfloat16", "bfloat16", "bfloat16", "float32", per_lane=2, suffix="_bf16")

#: Name -> row.
PRECISIONS: dict[str, Precision] = {p.name: p for p in (FLOAT32, INT8, BFLOAT16)}
#: The end of a kernel's name that says its precision, as a regular expression.
SUFFIXES = "(" + "|".join(p.suffix for p in PRECISIONS.values() if p.suffix) + ")?"


def reading(dtype: str) -> Precision | None:
    """The precision whose kernels read activations or weights of that type; None for others."""
    return next((p for p in PRECISIONS.values() if dtype in (p.data, p.weight)), None)


def suffix_of(dtype: str) -> str:
    """How names of kernels end that read activations of that type; empty for types of no row."""
    found = reading(dtype)
    return "" if found is None else found.suffix
