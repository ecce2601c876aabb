"""A target by name: family, level and cores, and what follows from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_tvm.errors import TargetError
from lepton_tvm.targets import arm, cuda, x86
from lepton_tvm.targets.family import Family, Level
from lepton_tvm.targets.host import host_arch

if TYPE_CHECKING:
    import tvm

__all__ = ["FAMILIES", "Target", "native_family", "native_level", "parse_target"]

#: Family name -> family. `native` takes the first one whose code is for this architecture.
FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (x86.FAMILY, arm.FAMILY, cuda.FAMILY)
}


@dataclass(frozen=True)
class Target:
    """What to build for: family, instruction set, and the cores that the code may spread over.

    `str(target)` is `family:isa`, which `parse_target` reads back.
    """

    spec: str
    family: str
    isa: str
    cores: int

    @property
    def level(self) -> Level:
        """The instruction set's figures."""
        level = FAMILIES[self.family].level(self.isa)
        if level is None:
            raise TargetError(f"the target family {self.family} has no {self.isa!r}")
        return level

    @property
    def on_gpu(self) -> bool:
        """Whether kernels run on a GPU."""
        return FAMILIES[self.family].on_gpu

    @property
    def features(self) -> tuple[str, ...]:
        """CPU flags (as in /proc/cpuinfo) that a machine must have to run what is built."""
        return self.level.flags

    @property
    def arch(self) -> str:
        """The architecture of the code: `x86_64` or `aarch64`."""
        return FAMILIES[self.family].arch()

    @property
    def is_native(self) -> bool:
        """Whether this machine can run what is built."""
        return self.arch == host_arch() and FAMILIES[self.family].runs_here(self.level)

    @property
    def cross_compiler(self) -> str | None:
        """The compiler that links for this target; None where this machine's own does."""
        return None if self.arch == host_arch() else FAMILIES[self.family].cross_compiler

    @property
    def tvm(self) -> tvm.target.Target:
        """The TVM target object (imports the compiler)."""
        import tvm

        family = FAMILIES[self.family]
        config = family.config(self.level, self.cores)
        host = config if family.host is None else family.host(self.level, self.cores)
        return tvm.target.Target(config, host=host)

    def __str__(self) -> str:
        return f"{self.family}:{self.isa}"


def parse_target(spec: str | Target = "native") -> Target:
    """Read `native`, `<family>`, `<family>:native`, `<family>:<level>` or a processor's name.

    The number of cores is this process's; set LEPTON_TVM_CORES to build for another machine.
    """
    if isinstance(spec, Target):
        return spec
    if not isinstance(spec, str) or not spec:
        raise TargetError(f"unknown target {spec!r}: a target is a string, one of {_known()}")
    name, _, isa = spec.partition(":")
    if spec == "native":
        name = native_family().name
    if name not in FAMILIES:
        raise TargetError(f"unknown target {spec!r}: this version builds for {_known()}")
    family = FAMILIES[name]
    if isa in ("", "native"):
        return Target(spec, name, family.native(), _cores())
    level = family.level(isa)
    if level is None:
        known = ", ".join([name, *(f"{name}:{n}" for n in (*family.levels, *family.processors))])
        raise TargetError(f"unknown instruction set {isa!r} in target {spec!r}: one of {known}")
    return Target(spec, name, level.name, _cores())


def native_family() -> Family:
    """The first family whose code is for this machine's architecture (x86 where there is none)."""
    fitting = (f for f in FAMILIES.values() if f.arch() == host_arch())
    return next(fitting, x86.FAMILY)


def native_level() -> Level:
    """The best level that this machine has; TargetError where it has none that is supported."""
    family = native_family()
    return family.levels[family.native()]


def _known() -> str:
    names = ["native"]
    for family in FAMILIES.values():
        names += [family.name, *(f"{family.name}:{level}" for level in family.levels)]
        if family.processors:
            names.append(f"{family.name}:<processor>")
    return ", ".join(names)


def _cores() -> int:
    text = os.environ.get("LEPTON_TVM_CORES")
    if text is None:
        return len(os.sched_getaffinity(0))
    if not text.isdigit() or int(text) < 1:
        raise TargetError(f"LEPTON_TVM_CORES is {text!r}: it must be a whole number of at least 1")
    return int(text)
