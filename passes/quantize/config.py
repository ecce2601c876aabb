"""The options of quantization: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, ClassVar

from lepton_tvm.errors import InputError
from lepton_tvm.passes.quantize.schemes import INT8, Scheme

__all__ = ["CALIBRATORS", "QuantizeConfig"]

CALIBRATORS: dict[str, str] = {
    "minmax": "the smallest and largest value seen",
    "percentile": "cut off the given share of the values at each end",
    "mse": "the range with the least mean squared rounding and clipping error",
}
_CHOICES = ("weight_bits", "activation_bits", "sum_bits")
_VERSION = 1


@dataclass(frozen=True)
class QuantizeConfig:
    """How a model is quantized to `scheme` after training; every field has a safe default.

    Weights are signed, symmetric and scaled per output channel; activations are unsigned,
    asymmetric and scaled per tensor. `weight_bits` is 8 or 7, which is the range -63..63. With
    `sum_bits` 16 the scales are chosen so that the products which x86 CPUs without VNNI add in 16
    bits fit there, which lets them multiply bytes at once; `quantize(target=...)` chooses it.
    `percentile` (of the values, at both ends) is read by the
    calibrator of that name only. `skip` holds glob patterns of op names (`conv2d_0`,
    `matmul_*`); each must match an op that would otherwise be quantized.
    """

    scheme: ClassVar[Scheme] = INT8
    weight_bits: int = INT8.weight_bits[0]
    activation_bits: int = INT8.activation_bits[0]
    sum_bits: int = INT8.sum_bits[0]
    calibrator: str = "minmax"
    percentile: float = 99.99
    bias_correction: bool = True
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in _CHOICES:
            bits, known = getattr(self, field), getattr(self.scheme, field)
            if bits not in known:
                allowed = " or ".join(str(b) for b in known)
                raise InputError(f"{field}={bits!r} is not supported: it must be {allowed}")
        if self.calibrator not in CALIBRATORS:
            raise InputError(
                f"unknown calibrator {self.calibrator!r}; choose one of {', '.join(CALIBRATORS)}"
            )
        if not (isinstance(self.percentile, int | float) and 50.0 < self.percentile <= 100.0):
            raise InputError(
                f"percentile={self.percentile!r} must be above 50 and at most 100, such as 99.99"
            )
        if isinstance(self.skip, str) or not all(isinstance(p, str) and p for p in self.skip):
            raise InputError(
                f"skip={self.skip!r} must be a sequence of name patterns, such as ('conv2d_0',)"
            )
        object.__setattr__(self, "skip", tuple(self.skip))

    @property
    def largest_weight(self) -> int:
        """The largest magnitude of a quantized weight: 127 or 63."""
        return (1 << (self.weight_bits - 1)) - 1

    @property
    def narrow_sums(self) -> bool:
        """Whether scales must leave room for sums of fewer bits than kernels usually have."""
        return self.sum_bits < self.scheme.sum_bits[0]

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields, with the version of their meaning."""
        return {"version": _VERSION, **dataclasses.asdict(self), "skip": list(self.skip)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> QuantizeConfig:
        """The inverse of `to_json`; unknown fields and versions are refused by name."""
        data = dict(data)
        version = data.pop("version", _VERSION)
        if version != _VERSION:
            raise InputError(f"quantize options of version {version}; this release reads version 1")
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise InputError(
                f"unknown quantize options {unknown}; known are {', '.join(sorted(known))}"
            )
        if "skip" in data:
            data["skip"] = tuple(data["skip"])
        return cls(**data)

    def fingerprint(self) -> str:
        """A sha256 of the options: equal options, equal fingerprint, in every process."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()
