"""Targets: which instruction set a kernel may use, chosen by name or from the machine at hand."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_tvm.errors import TargetError

if TYPE_CHECKING:
    import tvm

__all__ = ["ISAS", "Isa", "Target", "best_isa", "cpu_flags", "parse_target"]


@dataclass(frozen=True)
class Isa:
    """One x86 instruction-set level.

    `flags` are the names in Linux's /proc/cpuinfo that a CPU must show, `mcpu` and `mattr` what
    LLVM is told (x86-64-v2, -v3 and -v4: nothing beyond `flags` may be emitted), `lanes` the 32-bit
    lanes of a vector register and `registers` how many of them there are. `vnni`: one instruction
    adds four byte products into each 32-bit lane; `bf16`: one adds two bfloat16 products into each
    float32 lane; `amx`: there are tile registers, for int8 and bfloat16.
    """

    name: str
    flags: tuple[str, ...]
    mcpu: str
    mattr: tuple[str, ...]
    lanes: int
    registers: int
    vnni: bool = False
    bf16: bool = False
    amx: bool = False


_SSE = ("ssse3", "sse4_1", "sse4_2", "popcnt")
_AVX2 = ("avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe", "popcnt")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_VNNI = (*_AVX512, "avx512_vnni")
_BF16 = (*_VNNI, "avx512_bf16")
_AMX = (*_BF16, "amx_tile", "amx_int8", "amx_bf16")

#: Best last: `native` takes the last one whose flags the machine has.
ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa("sse", _SSE, "x86-64-v2", (), lanes=4, registers=16),
        Isa("avx2", _AVX2, "x86-64-v3", (), lanes=8, registers=16),
        Isa(
            "avxvnni", (*_AVX2, "avx_vnni"), "x86-64-v3", ("+avxvnni",),
            lanes=8, registers=16, vnni=True,
        ),
        Isa("avx512", _AVX512, "x86-64-v4", (), lanes=16, registers=32),
        Isa("vnni", _VNNI, "x86-64-v4", ("+avx512vnni",), lanes=16, registers=32, vnni=True),
        Isa(
            "bf16", _BF16, "x86-64-v4", ("+avx512vnni", "+avx512bf16"),
            lanes=16, registers=32, vnni=True, bf16=True,
        ),
        Isa(
            "amx", _AMX, "x86-64-v4",
            ("+avx512vnni", "+avx512bf16", "+amx-tile", "+amx-int8", "+amx-bf16"),
            lanes=16, registers=32, vnni=True, bf16=True, amx=True,
        ),
    )
}  # fmt: skip


@functools.lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """The feature flags of this machine's CPU as Linux names them; empty where they are unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def best_isa(flags: frozenset[str] | None = None) -> Isa:
    """The best instruction set that `flags` (default: this machine's) allow.

    Raises TargetError where not even SSE4.2 is there.
    """
    have = cpu_flags() if flags is None else flags
    fitting = [isa for isa in ISAS.values() if have.issuperset(isa.flags)]
    if not fitting:
        missing = ", ".join(f for f in ISAS["sse"].flags if f not in have)
        raise TargetError(
            f"this machine ({platform.machine()}) cannot be a native target: its CPU lacks "
            f"{missing}; name a target to build for another machine, one of "
            + ", ".join(f"x86:{name}" for name in ISAS)
        )
    return fitting[-1]


@dataclass(frozen=True)
class Target:
    """What to build for: family, instruction set, and the cores that the code may spread over."""

    spec: str
    family: str
    isa: str
    cores: int

    @property
    def level(self) -> Isa:
        """The instruction set's figures."""
        return ISAS[self.isa]

    @property
    def features(self) -> tuple[str, ...]:
        """CPU flags (as in /proc/cpuinfo) that a machine must have to run what is built."""
        return self.level.flags

    @property
    def tvm(self) -> tvm.target.Target:
        """The TVM target object (imports the compiler).

        LLVM optimises at level 2: the templates unroll and vectorise by themselves, and level 3
        was measured to unroll again, for a third more code and no speed.
        """
        import tvm

        config: dict[str, Any] = {
            "kind": "llvm",
            "mtriple": "x86_64-linux-gnu",
            "mcpu": self.level.mcpu,
            "mattr": list(self.level.mattr),
            "num-cores": self.cores,
            "opt-level": 2,
        }
        return tvm.target.Target(config, host=config)

    def __str__(self) -> str:
        return f"{self.family}:{self.isa}"


def parse_target(spec: str | Target = "native") -> Target:
    """Read `native`, `x86`, `x86:native` or `x86:<isa>`.

    The number of cores is this process's; set LEPTON_TVM_CORES to build for another machine.
    """
    if isinstance(spec, Target):
        return spec
    known = ", ".join(["native", "x86", *(f"x86:{name}" for name in ISAS)])
    if not isinstance(spec, str) or not spec:
        raise TargetError(f"unknown target {spec!r}: a target is a string, one of {known}")
    family, _, isa = spec.partition(":")
    if spec == "native":
        family, isa = "x86", "native"
    if family != "x86":
        raise TargetError(f"unknown target {spec!r}: this version builds for {known}")
    if isa in ("", "native"):
        return Target(spec, family, best_isa().name, _cores())
    if isa not in ISAS:
        raise TargetError(f"unknown instruction set {isa!r} in target {spec!r}: one of {known}")
    return Target(spec, family, isa, _cores())


def _cores() -> int:
    text = os.environ.get("LEPTON_TVM_CORES")
    if text is None:
        return len(os.sched_getaffinity(0))
    if not text.isdigit() or int(text) < 1:
        raise TargetError(f"LEPTON_TVM_CORES is {text!r}: it must be a whole number of at least 1")
    return int(text)
