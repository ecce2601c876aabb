"""What a target family has to bring: its levels, what of them this machine has, TVM's target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Family", "Level"]


class Level(Protocol):
    """One level of a family as passes and schedules of CPU kernels see it: figures, no names.

    A family whose kernels come from elsewhere answers what it has, and False for the units.
    """

    def __hash__(self) -> int: ...

    @property
    def name(self) -> str:
        """What stands behind the colon of a target."""
        ...

    @property
    def flags(self) -> tuple[str, ...]:
        """Features that a machine must show, as Linux's /proc/cpuinfo names them there."""
        ...

    @property
    def on_gpu(self) -> bool:
        """Whether kernels run on a GPU; then the figures of vector registers mean nothing."""
        ...

    @property
    def lanes(self) -> int:
        """32-bit lanes of a vector register."""
        ...

    @property
    def registers(self) -> int:
        """Vector registers."""
        ...

    @property
    def dot4(self) -> bool:
        """Whether one instruction multiplies four bytes each way and adds them to a 32-bit lane."""
        ...

    @property
    def offset(self) -> int:
        """What kernels subtract from uint8 activations before they multiply: 0, or 128.

        128 where instructions want both factors signed.
        """
        ...

    @property
    def mmla(self) -> bool:
        """Whether one instruction multiplies 2 rows by 2 columns of 8 bytes, into 4 sums."""
        ...

    @property
    def by_lane(self) -> bool:
        """Whether an instruction multiplies a register by one lane of another one."""
        ...

    @property
    def bf16(self) -> bool:
        """Whether one instruction adds two bfloat16 products into a float32 lane."""
        ...

    @property
    def amx(self) -> bool:
        """Whether there are tile registers as x86 has them, for int8 and bfloat16."""
        ...


@dataclass(frozen=True)
class Family:
    """A family of targets that share schedules.

    `arch` gives the architecture (`x86_64`, `aarch64`) that the code of its artifacts is for.
    `native` names the best level that this machine has, or raises TargetError; `runs_here` says
    whether this machine can run a level. `config` makes the dict of a TVM target for a level and a
    number of cores; `host` the one of the code that calls the kernels where it is another.
    `cross_compiler` is the C compiler that links for `arch` on other machines. `on_gpu` says that
    kernels run on a GPU, which the code of `arch` launches. `processors` are
    further names behind the colon: single processors with a level's figures.
    """

    name: str
    levels: Mapping[str, Level]
    arch: Callable[[], str]
    native: Callable[[], str]
    runs_here: Callable[[Level], bool]
    config: Callable[[Level, int], dict[str, Any]]
    host: Callable[[Level, int], dict[str, Any]] | None = None
    cross_compiler: str | None = None
    on_gpu: bool = False
    processors: Mapping[str, Level] = field(default_factory=dict)

    def level(self, name: str) -> Level | None:
        """The level or processor of that name."""
        return self.levels.get(name) or self.processors.get(name)
