"""What machine a number was taken on."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lepton_tvm.targets import FAMILIES, cpu_flags
from lepton_tvm.targets.driver import gpus

__all__ = ["Machine", "this_machine"]

# The features that compiled code may use; the full list of a CPU is long and mostly about
# virtualisation and power.
_SHOWN = ("sse4", "avx", "fma", "f16c", "amx", "asimd", "sve", "i8mm", "bf16", "bmi")


@dataclass(frozen=True)
class Machine:
    """A machine as a measurement needs it; `cores` are those this process may use.

    `gpu` names the first NVIDIA GPU, its compute capability and its driver. It is no part of the
    fingerprint, which is about measurements on the CPU; `gpu_fingerprint` is for those on the GPU.
    """

    cpu: str
    arch: str
    cores: int
    flags: tuple[str, ...]
    system: str
    kernel: str
    gpu: str | None = None

    @property
    def fingerprint(self) -> str:
        """A key of what decides speed: CPU, architecture, cores and flags (16 hex digits)."""
        parts = [self.cpu, self.arch, self.cores, list(self.flags)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def gpu_fingerprint(self) -> str | None:
        """The same for what runs on the GPU: GPU and host; None where there is none."""
        if self.gpu is None:
            return None
        parts = [self.gpu, self.fingerprint]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def fingerprint_for(self, family: str) -> str:
        """What times of code for a family of targets are valid for: on a GPU the GPU counts too."""
        gpu = self.gpu_fingerprint if FAMILIES[family].on_gpu else None
        return gpu or self.fingerprint

    def to_json(self) -> dict[str, Any]:
        """The fields and the fingerprint."""
        return {**asdict(self), "flags": list(self.flags), "fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Machine:
        """The inverse of `to_json`."""
        kept = {f.name: data[f.name] for f in fields(cls) if f.name in data or f.name != "gpu"}
        return cls(**{**kept, "flags": tuple(kept["flags"])})


@functools.lru_cache(maxsize=1)
def this_machine() -> Machine:
    """The machine this process runs on."""
    shown = sorted(f for f in cpu_flags() if f.startswith(_SHOWN) or "dotprod" in f or f == "abm")
    return Machine(
        cpu=_cpu_name(),
        arch=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        flags=tuple(shown),
        system=platform.system(),
        kernel=platform.release(),
        gpu=str(gpus().devices[0]) if gpus().devices else None,
    )


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or "unknown"
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if "model name" in fields:
        return fields["model name"]
    if "CPU part" in fields:
        return f"ARM {fields.get('CPU implementer', '?')}:{fields['CPU part']}"
    return platform.processor() or "unknown"
