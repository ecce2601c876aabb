"""64-bit ARM: its instruction-set levels, the processors that have them, and native detection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lepton_tvm.errors import TargetError
from lepton_tvm.targets.family import Family, Level
from lepton_tvm.targets.host import cpu_flags, host_arch

__all__ = ["CPUS", "FAMILY", "LEVELS", "ArmLevel", "best_level"]

ARCH = "aarch64"


@dataclass(frozen=True)
class ArmLevel:
    """One ARM instruction-set level, or a processor that has it.

    `flags` are the names in Linux's /proc/cpuinfo, `mcpu` and `mattr` what LLVM is told (nothing
    beyond `flags` may be emitted). All have 32 registers of four 32-bit lanes. `dot4`: one
    instruction adds four byte products into each lane. Where it takes factors of equal sign only,
    and where there is none, `offset` is what kernels subtract from uint8 activations first.
    `mmla`: one instruction (`usmmla`) multiplies 2 rows by 2 columns of 8 bytes.
    """

    name: str
    flags: tuple[str, ...]
    mattr: tuple[str, ...]
    mcpu: str = "generic"
    lanes: int = 4
    registers: int = 32
    dot4: bool = False
    offset: int = 0
    mmla: bool = False
    by_lane: bool = True
    bf16: bool = False
    amx: bool = False
    on_gpu: bool = False


_NEON = ("fp", "asimd")
_DOTPROD = (*_NEON, "asimddp")
_I8MM = (*_DOTPROD, "i8mm")

#: Best last: `native` takes the last one whose flags the machine has.
LEVELS: Mapping[str, ArmLevel] = {
    level.name: level
    for level in (
        ArmLevel("neon", _NEON, ("+neon",), offset=128),
        ArmLevel("dotprod", _DOTPROD, ("+neon", "+dotprod"), dot4=True, offset=128),
        ArmLevel("i8mm", _I8MM, ("+neon", "+dotprod", "+i8mm"), dot4=True, mmla=True),
    )
}

#: Processor, as LLVM calls it -> its level. Code for one runs wherever that level is: LLVM only
#: orders instructions for the processor.
CPUS: Mapping[str, str] = {
    "cortex-a53": "neon",
    "cortex-a57": "neon",
    "cortex-a72": "neon",
    "cortex-a73": "neon",
    "cortex-a55": "dotprod",
    "cortex-a75": "dotprod",
    "cortex-a76": "dotprod",
    "cortex-a77": "dotprod",
    "cortex-a78": "dotprod",
    "cortex-x1": "dotprod",
    "neoverse-n1": "dotprod",
    "neoverse-v1": "i8mm",
    "neoverse-n2": "i8mm",
    "neoverse-v2": "i8mm",
    "cortex-a710": "i8mm",
    "cortex-a715": "i8mm",
    "cortex-x2": "i8mm",
    "cortex-x3": "i8mm",
}

_PROCESSORS: Mapping[str, ArmLevel] = {
    cpu: replace(LEVELS[level], name=cpu, mcpu=cpu) for cpu, level in CPUS.items()
}


def best_level(flags: frozenset[str] | None = None) -> ArmLevel:
    """The best level that `flags` (default: this machine's) allow; TargetError without NEON."""
    have = cpu_flags() if flags is None else flags
    fitting = [level for level in LEVELS.values() if have.issuperset(level.flags)]
    if not fitting:
        raise TargetError(
            f"this machine ({host_arch()}) cannot be a native ARM target: it shows no asimd "
            "(NEON); name a target to build for another machine, one of "
            + ", ".join(f"arm:{name}" for name in LEVELS)
        )
    return fitting[-1]


# Instructions that the name of a processor brings with it; what its level lacks is switched off.
_BEYOND = (
    "aes", "altnzcv", "bf16", "bti", "complxnum", "crc", "dotprod", "flagm", "fp16fml", "fptoint",
    "fullfp16", "i8mm", "jsconv", "lse", "lse2", "mte", "pauth", "predres", "rand", "rcpc",
    "rcpc-immo", "rdm", "sb", "sha2", "sha3", "sm4", "sve", "sve2", "sve-bitperm",
)  # fmt: skip


def _config(level: Level, cores: int) -> dict[str, Any]:
    arm = {**LEVELS, **_PROCESSORS}[level.name]
    without = tuple(f"-{name}" for name in _BEYOND if f"+{name}" not in arm.mattr)
    return {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": arm.mcpu,
        "mattr": [*arm.mattr, *without],
        "num-cores": cores,
        "opt-level": 2,
    }


FAMILY = Family(
    "arm",
    LEVELS,
    arch=lambda: ARCH,
    native=lambda: best_level().name,
    runs_here=lambda level: cpu_flags().issuperset(level.flags),
    config=_config,
    cross_compiler="aarch64-linux-gnu-gcc",
    processors=_PROCESSORS,
)
