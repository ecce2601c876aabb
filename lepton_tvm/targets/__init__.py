"""Targets: which instruction set a kernel may use, chosen by name or from the machine at hand.

A family (`x86.py` and its neighbours) is one `Family` in the table `FAMILIES` of `target.py`.
"""

from __future__ import annotations

from lepton_tvm.targets.family import Family, Level
from lepton_tvm.targets.host import cpu_flags, host_arch
from lepton_tvm.targets.target import FAMILIES, Target, native_family, native_level, parse_target
from lepton_tvm.targets.x86 import ISAS, Isa, best_isa

__all__ = [
    "FAMILIES",
    "ISAS",
    "Family",
    "Isa",
    "Level",
    "Target",
    "best_isa",
    "cpu_flags",
    "host_arch",
    "native_family",
    "native_level",
    "parse_target",
]
