"""What a pass is: a frozen dataclass of options that maps a module to a new module and a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import tvm

__all__ = ["Pass", "PassReport", "Refused", "Skipped"]


@dataclass(frozen=True)
class Refused:
    """What a rule answers for an op that it is for and yet leaves alone: the reason."""

    reason: str


@dataclass(frozen=True)
class Skipped:
    """An op that a pass left alone: its kind, the name of its result, and the reason."""

    op: str
    name: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """A plain dict of the fields."""
        return {"op": self.op, "name": self.name, "reason": self.reason}


@dataclass(frozen=True)
class PassReport:
    """What a pass did: how many ops it changed, notes for people, numbers, and what it skipped."""

    name: str
    changed: int = 0
    notes: tuple[str, ...] = ()
    numbers: tuple[tuple[str, float], ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return {
            "name": self.name,
            "changed": self.changed,
            "notes": list(self.notes),
            "numbers": dict(self.numbers),
            "skipped": [s.to_json() for s in self.skipped],
        }


class Pass(Protocol):
    """The contract of every pass.

    The module that comes in is never changed: a pass that edits begins with `mod = mod.clone()`,
    others build a new one. The module that goes out is well formed. Every op of the kind the pass
    is for that it left alone stands in the report with a reason: a rule answers with its rewrite,
    with `Refused`, or with None for an op that is not its own. Running a pass on its own output
    changes nothing, but for the pruners, which remove more.

    The passes of `loops` are plain TVM passes without a report: no reason of theirs to leave a loop
    alone is one that a user could act on.
    """

    name: ClassVar[str]

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """Apply the pass."""
        ...
