"""x86-64: its instruction-set levels, and which of them the machine at hand has."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lepton_tvm.errors import TargetError
from lepton_tvm.targets.family import Family, Level
from lepton_tvm.targets.host import cpu_flags

__all__ = ["FAMILY", "ISAS", "Isa", "best_isa"]


@dataclass(frozen=True)
class Isa:
    """One x86 instruction-set level.

    `flags` are the names in Linux's /proc/cpuinfo that a CPU must show, `mcpu` and `mattr` what
    LLVM is told (x86-64-v2, -v3 and -v4: nothing beyond `flags` may be emitted), `lanes` the 32-bit
    lanes of a vector register and `registers` how many of them there are. `dot4`: one instruction
    adds four byte products into each 32-bit lane, unsigned by signed (so `offset` is 0); `bf16`:
    one adds two bfloat16 products into each float32 lane; `amx`: there are tile registers, for int8
    and bfloat16.
    """

    name: str
    flags: tuple[str, ...]
    mcpu: str
    mattr: tuple[str, ...]
    lanes: int
    registers: int
    dot4: bool = False
    offset: int = 0
    mmla: bool = False
    by_lane: bool = False
    bf16: bool = False
    amx: bool = False
    on_gpu: bool = False


_SSE = ("ssse3", "sse4_1", "sse4_2", "popcnt")
_AVX2 = ("avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe", "popcnt")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_VNNI = (*_AVX512, "avx512_vnni")
_BF16 = (*_VNNI, "avx512_bf16")
_AMX = (*_BF16, "amx_tile", "amx_int8", "amx_bf16")

#: Best last: `native` takes the last one whose flags the machine has.
ISAS: Mapping[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa("sse", _SSE, "x86-64-v2", (), lanes=4, registers=16),
        Isa("avx2", _AVX2, "x86-64-v3", (), lanes=8, registers=16),
        Isa(
            "avxvnni", (*_AVX2, "avx_vnni"), "x86-64-v3", ("+avxvnni",),
            lanes=8, registers=16, dot4=True,
        ),
        Isa("avx512", _AVX512, "x86-64-v4", (), lanes=16, registers=32),
        Isa("vnni", _VNNI, "x86-64-v4", ("+avx512vnni",), lanes=16, registers=32, dot4=True),
        Isa(
            "bf16", _BF16, "x86-64-v4", ("+avx512vnni", "+avx512bf16"),
            lanes=16, registers=32, dot4=True, bf16=True,
        ),
        Isa(
            "amx", _AMX, "x86-64-v4",
            ("+avx512vnni", "+avx512bf16", "+amx-tile", "+amx-int8", "+amx-bf16"),
            lanes=16, registers=32, dot4=True, bf16=True, amx=True,
        ),
    )
}  # fmt: skip


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


def _config(level: Level, cores: int) -> dict[str, Any]:
    """LLVM optimises at level 2: the templates unroll and vectorise by themselves.

    Level 3 was measured to unroll again, for a third more code and no speed.
    """
    isa = ISAS[level.name]
    return {
        "kind": "llvm",
        "mtriple": "x86_64-linux-gnu",
        "mcpu": isa.mcpu,
        "mattr": list(isa.mattr),
        "num-cores": cores,
        "opt-level": 2,
    }


FAMILY = Family(
    "x86",
    ISAS,
    arch=lambda: "x86_64",
    native=lambda: best_isa().name,
    runs_here=lambda level: cpu_flags().issuperset(level.flags),
    config=_config,
    cross_compiler="x86_64-linux-gnu-gcc",
)
