"""NVIDIA GPUs: what each architecture has, and the host code that launches its kernels.

Nothing that is built for them was ever run on a GPU by this project (see docs/cuda.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lepton_tvm.errors import TargetError
from lepton_tvm.targets.driver import Devices, gpus
from lepton_tvm.targets.family import Family, Level
from lepton_tvm.targets.host import host_arch

if TYPE_CHECKING:
    from lepton_tvm.targets.target import Target

__all__ = ["FAMILY", "GPUS", "Gpu", "best_arch", "gpu_of"]


@dataclass(frozen=True)
class Gpu:
    """One architecture, or several in one artifact (then the figures are those of the lowest).

    `name` is what stands behind the colon of a target, `archs` the architectures that machine code
    is made for. `threads`, `block_registers` and `shared_bytes` are what a thread block may have
    (shared memory without asking the driver for more). `tensor_types`: what tensor cores multiply
    here through `wmma`. `processors`, `processor_threads` and `processor_shared` are the
    multiprocessors of a common large GPU, and the threads and bytes that each holds, for estimates
    only. Every architecture of the table has `dp4a`: one instruction that adds four byte products.
    """

    name: str
    archs: tuple[str, ...]
    tensor_types: tuple[str, ...] = ()
    threads: int = 1024
    block_registers: int = 65536
    shared_bytes: int = 49152
    warp: int = 32
    processors: int = 80
    processor_threads: int = 2048
    processor_shared: int = 98304
    # what passes for CPUs ask of a level
    flags: tuple[str, ...] = ()
    lanes: int = 1
    registers: int = 255
    dot4: bool = True
    mmla: bool = False
    by_lane: bool = False
    offset: int = 0  # kernels here shift by themselves
    amx: bool = False
    on_gpu: bool = True

    @property
    def bf16(self) -> bool:
        """Whether products of bfloat16 are added in float32 by one instruction."""
        return "bfloat16" in self.tensor_types

    @property
    def extents(self) -> dict[str, int]:
        """The largest grid and block, dimension by dimension; the same on all."""
        grid = {"blockIdx.x": 2**31 - 1, "blockIdx.y": 65535, "blockIdx.z": 65535}
        return {**grid, "threadIdx.x": 1024, "threadIdx.y": 1024, "threadIdx.z": 64}

    @property
    def capability(self) -> int:
        """The lowest compute capability that can run it: 80 for 8.0."""
        return _number(self.archs[0])


def _number(arch: str) -> int:
    return int(arch.removeprefix("sm_"))


_INT8 = ("int8",)
_BF16 = ("int8", "bfloat16")


def _gpu(name: str, tensor_types: tuple[str, ...], processors: int, threads: int, kib: int) -> Gpu:
    """`threads` and `kib` of shared memory: of a multiprocessor."""
    return Gpu(
        name, (name,), tensor_types,
        processors=processors, processor_threads=threads, processor_shared=kib * 1024,
    )  # fmt: skip


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
#: Left out: 6.0, which has no dp4a, and 6.2, which gives a block half the registers.
GPUS = _Levels(
    {
        gpu.name: gpu
        for gpu in (
            _gpu("sm_61", (), 28, 2048, 96),
            _gpu("sm_70", (), 80, 2048, 96),
            _gpu("sm_75", _INT8, 40, 1024, 64),
            _gpu("sm_80", _BF16, 108, 2048, 164),
            _gpu("sm_86", _BF16, 84, 1536, 100),
            _gpu("sm_87", _BF16, 16, 1536, 164),
            _gpu("sm_89", _BF16, 128, 1536, 100),
            _gpu("sm_90", _BF16, 132, 2048, 228),
            _gpu("sm_100", _BF16, 148, 2048, 228),
            _gpu("sm_120", _BF16, 170, 1536, 100),
        )
    }
)


def gpu_of(target: Target) -> Gpu:
    """The figures of a target of this family."""
    return GPUS[target.isa]


def best_arch(found: Devices) -> str:
    """The architecture of the first GPU, or the best one in the table below it.

    Raises TargetError where there is none.
    """
    if not found.devices:
        raise TargetError(
            f"there is no GPU to build for: {found.reason}; name an architecture, one of "
            + ", ".join(f"cuda:{name}" for name in GPUS)
        )
    have = found.devices[0].capability
    fitting = [name for name in GPUS if _number(name) <= have]
    if not fitting:
        raise TargetError(f"{found.devices[0]} is older than sm_61, the oldest supported one")
    return fitting[-1]


def _native() -> str:
    return best_arch(gpus())


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
    on_gpu=True,
)
