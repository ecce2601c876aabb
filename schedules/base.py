"""What a schedule rule is: it recognises a PrimFunc and schedules it, or answers None.

A rule is a template: every decision it takes (register tile, order, parallel split) goes through
`Choices.pick`, which has an analytical default. Compiling without trials takes the defaults;
tuning answers with sampled values, so the space searched lies around a schedule that is already
fast and no template is written twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.ir.bfloat16 import HELPERS
from lepton_tvm.kernels.notes import KernelNotes
from lepton_tvm.targets import Target

__all__ = [
    "Block",
    "Choices",
    "Decided",
    "Defaults",
    "Loop",
    "ScheduleRule",
    "block_iters",
    "block_notes",
    "kernel_notes",
    "new_schedule",
    "same_block",
]

Block: TypeAlias = Any  # an SBlockRV; TVM's classes carry no usable static types
Loop: TypeAlias = Any  # a LoopRV


class Choices(Protocol):
    """Where a template's decisions come from."""

    def pick(self, sch: Schedule, name: str, candidates: Sequence[int], default: int) -> int:
        """One of `candidates`; `default` is the analytical answer and must be among them."""
        ...


@dataclass(frozen=True)
class Defaults:
    """No search: the analytical answer each time."""

    def pick(self, sch: Schedule, name: str, candidates: Sequence[int], default: int) -> int:
        """`default`."""
        return default


@dataclass
class Decided:
    """The given answers where they are among the candidates, else the defaults.

    `asked` notes every choice point in order: its candidates, the default, and the answer.
    """

    decisions: Mapping[str, int]
    asked: dict[str, tuple[tuple[int, ...], int, int]] = field(default_factory=dict)

    def pick(self, sch: Schedule, name: str, candidates: Sequence[int], default: int) -> int:
        """The decision for `name`."""
        wanted = self.decisions.get(name, default)
        answer = wanted if wanted in candidates else default
        self.asked[name] = (tuple(candidates), default, answer)
        return answer

    @property
    def differing(self) -> dict[str, int]:
        """The answers that are not the default: what differs from the zero-trial schedule."""
        return {name: got for name, (_, default, got) in self.asked.items() if got != default}


class ScheduleRule(Protocol):
    """A template.

    A class attribute `groups` names the groups of kernels that it serves: `conv2d`, `matmul` (each
    with all that its lowering may choose), `plain` for the rest. Only their tuning records depend
    on its code; without the attribute it is taken to serve all.
    """

    @property
    def name(self) -> str:
        """How reports and the artifact's list of kernels call it."""
        ...

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """The scheduled function (as `main` of the schedule's module), or None: not mine."""
        ...


def new_schedule(func: tvm.tirx.PrimFunc) -> Schedule:
    """A schedule of a copy of `func`, as `main`; with bfloat16 it imports the helpers for that."""
    sch = Schedule(tvm.IRModule({"main": func}))
    if any("bfloat16" in str(getattr(p, "dtype", "")) for p in func.params):
        sch.annotate(sch.get_sblock("root"), "pragma_import_llvm", HELPERS)
    return sch


def block_notes(sch: Schedule, block: Block) -> dict[str, Any]:
    """The annotations of a block."""
    return dict(sch.get(block).annotations.items())


def kernel_notes(sch: Schedule, block: Block) -> KernelNotes | None:
    """What the reduction of a kernel says about it; None for any other block.

    Raises CompileError, with the name of the block, where annotations do not fit together.
    """
    return KernelNotes.from_attrs(block_notes(sch, block), f"block {sch.get(block).name_hint!r}")


def block_iters(sch: Schedule, block: Block) -> str:
    """One letter per block iterator: S spatial, R reduced, O anything else."""
    letters = {0: "S", 2: "R"}
    return "".join(letters.get(int(v.iter_type), "O") for v in sch.get(block).iter_vars)


def same_block(sch: Schedule, a: Block, b: Block) -> bool:
    """Whether two random variables stand for the same block."""
    return bool(sch.get_sref(a).same_as(sch.get_sref(b)))
