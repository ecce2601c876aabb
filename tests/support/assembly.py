"""Hand-assembled functions that use the tiles, without TVM: for tests of the emulator."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LOAD_CONFIG = "c4 e2 78 49 07"  # ldtilecfg [rdi]
STORE_CONFIG = "c4 c2 79 49 01"  # sttilecfg [r9]
ZERO = "c4 e2 7b 49 c0"  # tilezero tmm0
LOAD_A = "c4 e2 7b 4b 0c 0e"  # tileloadd tmm1, [rsi + rcx]
LOAD_B = "c4 e2 79 4b 14 0a"  # tileloaddt1 tmm2, [rdx + rcx]
LOAD_BEFORE = "c4 c2 7b 4b 04 08"  # tileloadd tmm0, [r8 + rcx]
STORE = "c4 c2 7a 4b 04 08"  # tilestored [r8 + rcx], tmm0
RELEASE = "c4 e2 78 49 c0"
RETURN = "c3"
# tdpb?? tmm0, tmm1, tmm2: the sign of the left and of the right bytes
DOTS = {
    ("uint8", "uint8"): "c4 e2 68 5e c1",
    ("uint8", "int8"): "c4 e2 69 5e c1",
    ("int8", "uint8"): "c4 e2 6a 5e c1",
    ("int8", "int8"): "c4 e2 6b 5e c1",
}
DOT_BF16 = "c4 e2 6a 5c c1"


def assembled(*code: str) -> Any:
    """The code as a function of six pointers or integers."""
    data = bytes.fromhex("".join(code))
    memory = mmap.mmap(-1, len(data), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(data)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 6)(address)
    function.memory = memory  # type: ignore[attr-defined]
    return function


def configuration(rows: int, depth: int, columns: int) -> Array:
    """Tile 0: sums, tile 1: `rows` lines of `depth` bytes, tile 2: packed, `columns` sums wide."""
    made = np.zeros(64, np.uint8)
    made[0] = 1
    for tile, (lines, width) in enumerate(
        [(rows, 4 * columns), (rows, depth), (depth // 4, 4 * columns)]
    ):
        made[48 + tile], made[16 + 2 * tile] = lines, width
    return made


def packed(b: Array, dot: int) -> Array:
    """[depth, columns] -> lines of 64 bytes that hold `dot` neighbours of each column together."""
    depth, columns = b.shape
    split = b.reshape(depth // dot, dot, columns).transpose(0, 2, 1)
    lines = np.zeros((depth // dot, 16, dot), b.dtype)
    lines[:, :columns] = split
    return lines
