"""The annotations that lowered kernels carry for schedules, reports and searches to read.

TVM keeps them as a map from strings on blocks and loops. Only this file spells the strings; they
are part of the hash of a kernel, under which tuning records are stored, so they stay as they are.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lepton_tvm.errors import CompileError
from lepton_tvm.kernels.register_tile import RegisterTile

__all__ = [
    "ROW_STAGE",
    "WEIGHTS_BLOCK",
    "WEIGHTS_PASS",
    "WEIGHTS_STEP",
    "Form",
    "KernelNotes",
]

#: Annotation of the blocks that belong to a row function: `partial`, `fold` or `row`.
ROW_STAGE = "lepton.row_stage"
#: Annotations of loops whose weights are fetched ahead (see `schedules/prefetch.py`).
WEIGHTS_BLOCK, WEIGHTS_PASS, WEIGHTS_STEP = (
    "lepton.weights_block",
    "lepton.weights_pass",
    "lepton.weights_step",
)

_KERNEL, _OPERAND, _MACS = "lepton.kernel", "lepton.operand", "lepton.macs"
_LANES, _VECTORS, _ROWS, _DOT = "lepton.lanes", "lepton.vectors", "lepton.rows", "lepton.dot"
_LINES, _UNROLLED, _MMLA = "lepton.lines", "lepton.unrolled", "lepton.matrix"
# Two fields share this key: the geometry of AMX tiles as JSON and, for Winograd, how many image
# tiles make a group. Both are in tuning records' hashes, so neither can get a key of its own.
_TILES = "lepton.tiles"

# Kernels whose sums lie in registers of a CPU, and those of GPUs, which have no register tile.
_ON_CPU = ("conv2d", "matmul", "batch_matmul", "depthwise_conv2d", "winograd_conv2d")
_ON_GPU = ("gemm", "window_conv")
_WINOGRAD = "winograd_conv2d"


class Form(enum.Enum):
    """The unit for which the weights of a kernel are packed."""

    VECTORS = "vectors"
    MMLA = "mmla"
    AMX = "amx"


@dataclass(frozen=True)
class KernelNotes:
    """What the reduction block of a kernel says about it.

    `kernel` names the loop nest, `operand` the element type that it multiplies (`uint8x4`: words of
    four), `macs` its multiply-adds. Kernels of CPUs have a register `tile` and add `dot` products
    at once.

    Depthwise kernels say how many output `lines` share a word (integers), or whether the tiles of a
    line are `unrolled` (floats). `mmla` marks sums in registers of 2 x 2. `winograd_group` counts
    the image tiles that are transformed together. `amx_tiles` is a `AmxShape` as JSON.

    Raises CompileError where a kernel is not known, or lacks or has a field that is not its own.
    """

    kernel: str
    operand: str
    macs: int
    tile: RegisterTile | None = None
    dot: int = 1
    lines: int | None = None
    unrolled: bool | None = None
    mmla: bool = False
    winograd_group: int | None = None
    amx_tiles: str | None = None

    def __post_init__(self) -> None:
        if self.kernel not in (*_ON_CPU, *_ON_GPU):
            known = ", ".join((*_ON_CPU, *_ON_GPU))
            raise CompileError(f"no kernel is called {self.kernel!r}: the kernels are {known}")
        if (self.tile is None) != (self.kernel in _ON_GPU):
            wanted = "no" if self.kernel in _ON_GPU else "a"
            raise CompileError(f"a {self.kernel} kernel must have {wanted} register tile")
        if (self.winograd_group is None) != (self.kernel != _WINOGRAD):
            wanted = "a" if self.kernel == _WINOGRAD else "no"
            raise CompileError(f"a {self.kernel} kernel must have {wanted} group of image tiles")
        if self.kernel not in ("conv2d", "matmul") and self.form is not Form.VECTORS:
            raise CompileError(f"a {self.kernel} kernel has no form for {self.form.name}")
        if self.mmla and self.amx_tiles is not None:
            raise CompileError(f"a {self.kernel} kernel cannot be packed for MMLA and AMX at once")

    @property
    def form(self) -> Form:
        """The unit that the weights are packed for."""
        if self.amx_tiles is not None:
            return Form.AMX
        return Form.MMLA if self.mmla else Form.VECTORS

    @property
    def element(self) -> str:
        """The precision of what is multiplied: `int8` for bytes of any sign and packing."""
        return self.operand.replace("uint8", "int8").removesuffix("x4")

    def to_attrs(self) -> dict[str, int | str]:
        """The annotations of the reduction block; fields that do not apply are left out."""
        tile = self.tile
        registers = {} if tile is None else {
            _LANES: tile.lanes, _VECTORS: tile.vectors, _ROWS: tile.rows, _DOT: self.dot
        }  # fmt: skip
        made: dict[str, int | str | None] = {
            _KERNEL: self.kernel,
            _OPERAND: self.operand,
            _LINES: self.lines,
            _UNROLLED: None if self.unrolled is None else int(self.unrolled),
            _MMLA: 1 if self.mmla else None,
            **registers,
            _MACS: self.macs,
            _TILES: self.winograd_group if self.amx_tiles is None else self.amx_tiles,
        }
        return {key: value for key, value in made.items() if value is not None}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any], where: str = "a block") -> KernelNotes | None:
        """The inverse of `to_attrs`; None for a block that is not the reduction of a kernel.

        `attrs` may hold annotations of others. Raises CompileError, which names `where`, for an
        unknown kernel and for annotations that are missing.
        """
        if _KERNEL not in attrs:
            return None
        kernel = str(attrs[_KERNEL])
        needed = [_OPERAND, _MACS]
        needed += [_LANES, _VECTORS, _ROWS, _DOT] if kernel in _ON_CPU else []
        needed += [_TILES] if kernel == _WINOGRAD else []
        if missing := [key for key in needed if key not in attrs]:
            raise CompileError(f"{where} ({kernel}) lacks the annotations {', '.join(missing)}")
        try:
            return cls._read(kernel, attrs)
        except CompileError as error:
            raise CompileError(f"{where}: {error}") from error

    @classmethod
    def _read(cls, kernel: str, attrs: Mapping[str, Any]) -> KernelNotes:
        def number(key: str) -> int | None:
            return int(attrs[key]) if key in attrs else None

        tile = None
        if kernel in _ON_CPU:
            tile = RegisterTile(int(attrs[_ROWS]), int(attrs[_LANES]), int(attrs[_VECTORS]))
        unrolled, tiles = number(_UNROLLED), attrs.get(_TILES)
        winograd = kernel == _WINOGRAD
        return cls(
            kernel,
            str(attrs[_OPERAND]),
            int(attrs[_MACS]),
            tile,
            number(_DOT) or 1,
            lines=number(_LINES),
            unrolled=None if unrolled is None else bool(unrolled),
            mmla=_MMLA in attrs,
            winograd_group=int(tiles) if winograd and tiles is not None else None,
            amx_tiles=None if winograd or tiles is None else str(tiles),
        )
