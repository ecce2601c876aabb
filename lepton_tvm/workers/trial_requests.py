"""What goes to builders and runners and what comes back: plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from lepton_tvm.errors import TrialError

__all__ = [
    "Argument",
    "BuildRequest",
    "Builder",
    "Built",
    "RunRequest",
    "RunResult",
    "Runner",
    "fair",
]


@dataclass(frozen=True)
class BuildRequest:
    """One kernel to build: an unscheduled loop nest and how to schedule it.

    `module` is `tvm.ir.save_json` of a module with one PrimFunc `main`; `target` and `cores` as
    `Target` has them. `decisions` answers the choice points of our template (a name it lacks takes
    the template's default, so an empty dict is the zero-trial schedule). Where no template fits,
    `trace` is a MetaSchedule trace as JSON to be replayed instead; both None: TVM's default.
    """

    id: str
    module: str = field(repr=False)
    target: str
    cores: int
    decisions: Mapping[str, int] | None
    trace: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Built:
    """A built kernel or why there is none.

    `path` is a shared library whose function `main` takes the kernel's arguments. `state` is `ok`,
    `failed` (the schedule or the compiler refused), `crashed` or `timeout`. `seconds` is the time
    the build took. `asked` is what the template asked: name -> (candidates, default); `decisions`
    are its answers that are not the default, which lack what was requested but is no candidate;
    `trace` is the schedule as MetaSchedule's JSON. All three are empty where no template applied.
    `reason` is set where no candidate could have been built: `no-compiler`,
    `disk-full` or `scratch-gone`; such a failure says nothing about the candidate.
    """

    id: str
    state: str
    path: str | None
    error: str | None
    seconds: float
    asked: Mapping[str, tuple[tuple[int, ...], int]] = field(default_factory=dict, repr=False)
    decisions: Mapping[str, int] = field(default_factory=dict)
    trace: Any = field(default=None, repr=False)
    reason: str | None = None


@dataclass(frozen=True)
class Argument:
    """One argument of a kernel: a raw little-endian C-ordered file, or None for an output.

    `constant` are weights and what else the model brings along.
    """

    shape: tuple[int, ...]
    dtype: str
    path: str | None
    constant: bool = False


@dataclass(frozen=True)
class RunRequest:
    """Time one built kernel beside a reference that computes the same from its own arguments.

    `path` and `reference` are shared libraries (`Built.path`); arguments stand in the order of the
    kernel's parameters, outputs last with `path` None. Packed constants differ between the two,
    outputs have the same shapes and must agree: exactly for integers, within `tolerance` times the
    largest reference output for floats. Without a reference nothing is compared. Both kernels run
    in turns for about `budget_s` seconds together, on `threads` threads. `on_gpu`: their arguments
    lie on the first GPU, and a time ends when the kernels it started are done.

    `model_constants` are the bytes of all constants of the model. Every call reads another copy of
    the kernel's own, until copies of so many bytes were read: constants come from the level of
    memory that they come from in an inference. 0: always the same ones.
    """

    id: str
    path: str
    arguments: tuple[Argument, ...]
    reference: str | None = None
    reference_arguments: tuple[Argument, ...] = ()
    tolerance: float = 1e-4
    threads: int = 1
    budget_s: float = 0.05
    on_gpu: bool = False
    model_constants: int = 0


@dataclass(frozen=True)
class RunResult:
    """Seconds of one run, sample by sample; those of the reference were taken in turns with them.

    `state` is `ok`, `wrong` (the outputs differ from the reference's; `error` says by how much),
    `failed`, `crashed` or `timeout`. `reason` is as in `Built`, or `device` where a device could
    not do what was asked.
    """

    id: str
    state: str
    samples_s: tuple[float, ...] = ()
    reference_s: tuple[float, ...] = ()
    error: str | None = None
    reason: str | None = None


class Builder(Protocol):
    """Builds kernels, several at a time."""

    def build(self, requests: Sequence[BuildRequest]) -> Iterator[Built]:
        """One answer for each request, as they get ready (in any order); never raises for one."""
        ...

    def close(self) -> None:
        """Stop all workers and remove the files that were built."""
        ...


class Runner(Protocol):
    """Times kernels on one kind of machine, one at a time for each device."""

    @property
    def hardware(self) -> str:
        """The fingerprint of the machine (`Machine.fingerprint`) that times are valid for."""
        ...

    def run(self, requests: Sequence[RunRequest]) -> Iterator[RunResult]:
        """One answer for each request, as they get ready; never raises for one."""
        ...

    def close(self) -> None:
        """Stop all workers."""
        ...


_Answer = TypeVar("_Answer", Built, RunResult)


def fair(answer: _Answer) -> _Answer:
    """The answer of a builder or runner. Raises TrialError where it says nothing of the candidate.

    Such a trial is not to be recorded: it would stand for good that the candidate failed.
    """
    if answer.reason is not None:
        raise TrialError(f"the trials cannot go on: {answer.error}")
    return answer
