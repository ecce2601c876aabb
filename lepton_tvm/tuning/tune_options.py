"""What a tuning run is asked for, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lepton_tvm.errors import InputError

__all__ = ["TuneOptions", "parse_budget"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """The options of `tune` that are no machine and no model, by its names.

    `trials`, `budget` (seconds) and `patience` end the search; None: they do not. `variant` and
    `output` are the name and the file of the tuned artifact. Raises InputError for a number that
    is none or too small.
    """

    trials: int | None
    budget: float | None
    patience: int | None
    threads: int
    winograd: bool
    seed: int
    variant: str
    output: Path | None

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("threads", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is None and name == "trials":
                continue
            if type(value) is not int or value < least:
                raise InputError(f"{name} is {value!r}: it must be an int of at least {least}")


def parse_budget(budget: str | float | None) -> float | None:
    """Seconds of `90`, `"90s"`, `"10m"` or `"1h"`; None of None. Raises InputError."""
    if budget is None:
        return None
    text = str(budget).strip()
    unit = _UNITS.get(text[-1:])
    try:
        value = float(text[:-1] if unit else text) * (unit or 1.0)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"budget {budget!r} is not a time: give seconds, or 90s, 10m, 1h")
    return value
