"""NVIDIA GPUs: what each architecture has, and the host code that launches its kernels.

Nothing that is built for them was ever run on a GPU by this project (see docs/cuda.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lepton_tvm.errors import TargetError
from lepton_tvm.targets.driver import gpus
from lepton_tvm.targets.family import Family, Level
from lepton_tvm.targets.host import host_arch

if TYPE_CHECKING:
    from lepton_tvm.targets.target import Target

__all__ = ["FAMILY", "GPUS", "Gpu", "gpu_of"]


@dataclass(frozen=True)
class Gpu:
    """One architecture, or several in one artifact (then the figures are those of the lowest).

    `name` is what stands behind the colon of a target, `archs` the architectures that machine code
    is made for. `threads` and `shared_bytes` are what a thread block may have (shared memory
    without asking the driver for more). `dp4a`: one instruction adds four byte products;
    `tensor_types`: what tensor cores multiply here through `wmma`.
    """

    name: str
    archs: tuple[str, ...]
    tensor_types: tuple[str, ...] = ()
    dp4a: bool = True
    threads: int = 1024
    shared_bytes: int = 49152
    warp: int = 32
    # what passes for CPUs ask of a level
    flags: tuple[str, ...] = ()
    lanes: int = 1
    registers: int = 255
    dot4: bool = True
    matrix: bool = False
    offset: int = 0  # kernels here shift by themselves
    amx: bool = False

    @property
    def bf16(self) -> bool:
        """Whether products of bfloat16 are added in float32 by one instruction."""
        return "bfloat16" in self.tensor_types

    @property
    def capability(self) -> int:
        """The lowest compute capability that can run it: 80 for 8.0."""
        return _number(self.archs[0])


def _number(arch: str) -> int:
    return int(arch.removeprefix("sm_"))


_INT8 = ("int8",)
_BF16 = ("int8", "bfloat16")


class _Levels(dict[str, Gpu]):
    """The table, which also answers for several architectures: `sm_80+sm_90`."""

    def __missing__(self, name: str) -> Gpu:
        if name not in self:
            raise KeyError(name)
        archs = tuple(sorted(set(name.split("+")), key=lambda a: list(self).index(a)))
        return replace(self[archs[0]], name="+".join(archs), archs=archs)

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def __contains__(self, name: object) -> bool:
        parts = str(name).split("+")
        return all(dict.__contains__(self, part) for part in parts)


#: dp4a came with 6.1, int8 tensor cores with 7.2, bfloat16 with 8.0. CUDA 13 builds for 7.5 on.
GPUS = _Levels(
    {
        gpu.name: gpu
        for gpu in (
            Gpu("sm_61", ("sm_61",)),
            Gpu("sm_70", ("sm_70",)),
            Gpu("sm_75", ("sm_75",), _INT8),
            Gpu("sm_80", ("sm_80",), _BF16),
            Gpu("sm_86", ("sm_86",), _BF16),
            Gpu("sm_87", ("sm_87",), _BF16),
            Gpu("sm_89", ("sm_89",), _BF16),
            Gpu("sm_90", ("sm_90",), _BF16),
            Gpu("sm_100", ("sm_100",), _BF16),
            Gpu("sm_120", ("sm_120",), _BF16),
        )
    }
)


def gpu_of(target: Target) -> Gpu:
    """The figures of a target of this family."""
    return GPUS[target.isa]


def _native() -> str:
    """The architecture of the first GPU, or the best one in the table below it."""
    found = gpus()
    if not found.devices:
        raise TargetError(
            f"there is no GPU to build for: {found.reason}; name an architecture, one of "
            + ", ".join(f"cuda:{name}" for name in GPUS)
        )
    have = found.devices[0].capability
    fitting = [name for name in GPUS if _number(name) <= have]
    if not fitting:
        raise TargetError(f"{found.devices[0]} is older than the oldest that is known, sm_61")
    return fitting[-1]


def _runs_here(level: Level) -> bool:
    needed = GPUS[level.name].capability
    return any(device.capability >= needed for device in gpus().devices[:1])


def _config(level: Level, cores: int) -> dict[str, Any]:
    gpu = GPUS[level.name]
    return {
        "kind": "cuda",
        "arch": gpu.archs[0],
        "max_threads_per_block": gpu.threads,
        "max_shared_memory_per_block": gpu.shared_bytes,
        "thread_warp_size": gpu.warp,
    }


def _host(level: Level, cores: int) -> dict[str, Any]:
    """The plainest processor of this machine's architecture: its code only launches kernels."""
    return {"kind": "llvm", "mtriple": f"{host_arch()}-linux-gnu"}


FAMILY = Family(
    "cuda",
    GPUS,
    arch=host_arch,
    native=_native,
    runs_here=_runs_here,
    config=_config,
    host=_host,
)
