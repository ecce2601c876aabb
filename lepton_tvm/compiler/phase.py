"""What a phase of the compiler is, how a list of phases is run, and how to watch it run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from lepton_tvm.errors import CompileError

if TYPE_CHECKING:
    import tvm

__all__ = ["Hook", "Lowered", "Phase", "run_phases", "watched"]

#: Sees the number of a phase in its list (from 1), its name, and the module that came out.
Hook: TypeAlias = "Callable[[int, str, tvm.IRModule], None]"

_HOOKS: ContextVar[tuple[Hook, ...]] = ContextVar("hooks", default=())


@dataclass(frozen=True)
class Phase:
    """One step of the compiler: its name, and what it does to a module.

    `step` maps a module to a new one and leaves the old one as it is. A pass of ours gives its
    report too, `(module, report)`, and `schedule` a list of what it did to each function.
    """

    name: str
    step: Callable[[tvm.IRModule], Any]


@dataclass(frozen=True)
class Lowered:
    """A module some phases on, and what those phases reported, in order."""

    module: tvm.IRModule = field(repr=False)
    reports: tuple[Any, ...] = ()


def run_phases(
    phases: Sequence[Phase],
    module: tvm.IRModule,
    *,
    after: str | None = None,
    through: str | None = None,
) -> Lowered:
    """Run `phases` in order; every hook of `watched` sees the module after each.

    `after` and `through` name the phase that ran last and the one to stop behind, where only a
    part of the list is to run. Phases keep their numbers then.
    """
    first = _position(phases, after) + 1 if after is not None else 0
    end = _position(phases, through) + 1 if through is not None else len(phases)
    hooks, reports = _HOOKS.get(), []
    for index in range(first, end):
        made = phases[index].step(module)
        if isinstance(made, tuple):
            module, report = made
            reports.append(report)
        else:
            module = made
        for hook in hooks:
            hook(index + 1, phases[index].name, module)
    return Lowered(module, tuple(reports))


@contextmanager
def watched(*hooks: Hook) -> Iterator[None]:
    """Show `hooks` the module after every phase that this thread runs inside the block.

    What a hook raises stops the compiler and reaches the caller as it is.
    """
    before = _HOOKS.set((*_HOOKS.get(), *hooks))
    try:
        yield
    finally:
        _HOOKS.reset(before)


def _position(phases: Sequence[Phase], name: str) -> int:
    found = [i for i, phase in enumerate(phases) if phase.name == name]
    if len(found) != 1:
        raise CompileError(f"{len(found)} phases are called {name!r}, exactly one must be")
    return found[0]
