"""What lies in compiled kernels: a fat binary's ELF files, their architecture and instructions."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass

__all__ = ["FFMA", "HMMA", "IDP4A", "IMMA", "Cubin", "cubins"]

#: Opcodes of SASS: the low 12 bits of an instruction of 16 bytes, the same from sm_75 to sm_90.
IMMA, HMMA, FFMA, IDP4A = 0x237, 0x23C, 0x223, 0x226
_CUDA = 190  # e_machine


@dataclass(frozen=True)
class Cubin:
    """Machine code for one architecture: instructions of each kernel by opcode."""

    arch: str
    kernels: dict[str, Counter[int]]


def cubins(data: bytes) -> list[Cubin]:
    """Every ELF file for NVIDIA GPUs inside `data`."""
    found, at = [], data.find(b"\x7fELF")
    while at >= 0:
        if struct.unpack_from("<H", data, at + 18)[0] == _CUDA:
            found.append(_cubin(data[at:]))
        at = data.find(b"\x7fELF", at + 4)
    return found


def _cubin(elf: bytes) -> Cubin:
    (flags,) = struct.unpack_from("<I", elf, 48)
    (offset,) = struct.unpack_from("<Q", elf, 40)
    size, count, names_at = struct.unpack_from("<HHH", elf, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, offset + i * size) for i in range(count)]
    names = elf[sections[names_at][4] :]
    kernels = {}
    for section in sections:
        name = names[section[0] : names.index(b"\0", section[0])].decode()
        if name.startswith(".text."):
            code = elf[section[4] : section[4] + section[5]]
            words = (struct.unpack_from("<Q", code, i)[0] for i in range(0, len(code), 16))
            kernels[name.removeprefix(".text.")] = Counter(word & 0xFFF for word in words)
    return Cubin(f"sm_{flags >> 8 & 0xFF}", kernels)
