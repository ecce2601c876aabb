"""Answers to the choice points of templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tvm.s_tir import Schedule


@dataclass
class Answer:
    """Takes the given value for one choice, else the default; notes what was asked."""

    name: str = ""
    value: int = 0
    asked: dict[str, tuple[list[int], int]] = field(default_factory=dict)

    def pick(self, sch: Schedule, name: str, candidates: Sequence[int], default: int) -> int:
        assert default in candidates, f"the default {default} of {name} is not a candidate"
        self.asked[name] = (list(candidates), default)
        return self.value if name == self.name else default
