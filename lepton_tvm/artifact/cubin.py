"""What lies in compiled GPU kernels: the ELF files of a fat binary, read without CUDA.

Names and meanings of `.nv.info` attributes are those that `cuobjdump -elf` prints; NVIDIA does not
document the format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Cubin", "KernelCode", "cubins"]

_CUDA = 190  # e_machine
_NOBITS = 8  # sh_type
_WARP, _STEP = 32, 8
# What the system takes of a block's shared memory is counted in kernels for these and newer.
_SYSTEM_SHARED, _SYSTEM_SINCE = 1024, 90
_FRAME_SIZE, _MAX_THREADS, _REG_COUNT = 0x11, 0x05, 0x2F  # attributes of .nv.info
_SIZED = 4  # an attribute whose value has its size in front


@dataclass(frozen=True)
class KernelCode:
    """One kernel for one architecture, and what its launch takes.

    `threads`: the most threads of a block that the compiler was told of (0: it was told of none).
    `registers`: of each thread. `shared_bytes`: static shared memory of a block, without what the
    system takes. `local_bytes`: memory of each thread for spilled registers and arrays that are not
    in registers. `code`: its instructions, 16 bytes each.
    """

    threads: int
    registers: int
    shared_bytes: int
    local_bytes: int
    code: bytes = field(repr=False)

    @property
    def block_registers(self) -> int:
        """Registers of a block of `threads`: given to warps, each thread's in steps of eight."""
        return -(-self.threads // _WARP) * _WARP * (-(-self.registers // _STEP) * _STEP)


@dataclass(frozen=True)
class Cubin:
    """Machine code for one architecture (`sm_80`): kernels by name."""

    arch: str
    kernels: dict[str, KernelCode]


def cubins(data: bytes) -> list[Cubin]:
    """Every ELF file for NVIDIA GPUs inside `data` (a fat binary, an artifact)."""
    found, at = [], data.find(b"\x7fELF")
    while at >= 0:
        if data[at + 18 : at + 20] == struct.pack("<H", _CUDA):
            found.append(_cubin(data[at:]))
        at = data.find(b"\x7fELF", at + 4)
    return found


def _cubin(elf: bytes) -> Cubin:
    (flags,) = struct.unpack_from("<I", elf, 48)
    sections = dict(_sections(elf))
    names = [name for name in sections if name.startswith(".text.")]
    symbols = _symbols(sections.get(".symtab", (0, b""))[1], sections[".strtab"][1])
    figures = _figures(sections.get(".nv.info", (0, b""))[1], symbols)
    number = flags >> 8 & 0xFF
    system = _SYSTEM_SHARED if number >= _SYSTEM_SINCE else 0
    kernels = {}
    for text in names:
        name = text.removeprefix(".text.")
        own = dict(_attributes(sections.get(f".nv.info.{name}", (0, b""))[1]))
        x, y, z = struct.unpack_from("<III", own.get(_MAX_THREADS, bytes(12)))
        kernels[name] = KernelCode(
            threads=x * y * z,
            registers=figures.get((name, _REG_COUNT), 0),
            shared_bytes=max(0, sections.get(f".nv.shared.{name}", (0, b""))[0] - system),
            local_bytes=figures.get((name, _FRAME_SIZE), 0),
            code=sections[text][1],
        )
    return Cubin(f"sm_{number}", kernels)


def _sections(elf: bytes) -> Iterator[tuple[str, tuple[int, bytes]]]:
    """Name, size and content (none of memory that is only reserved) of every section."""
    (offset,) = struct.unpack_from("<Q", elf, 40)
    entry, count, names_at = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, offset + i * entry) for i in range(count)]
    names = elf[headers[names_at][4] :]
    for header in headers:
        start, size = header[4], header[5]
        content = b"" if header[1] == _NOBITS else elf[start : start + size]
        yield _text(names, header[0]), (size, content)


def _symbols(table: bytes, strings: bytes) -> list[str]:
    return [_text(strings, entry[0]) for entry in struct.iter_unpack("<IBBHQQ", table)]


def _figures(info: bytes, symbols: list[str]) -> dict[tuple[str, int], int]:
    """(kernel, attribute) -> value, of the attributes that are told for all kernels together."""
    found = {}
    for attribute, value in _attributes(info):
        if attribute in (_FRAME_SIZE, _REG_COUNT):
            symbol, number = struct.unpack("<II", value)
            found[symbols[symbol], attribute] = number
    return found


def _attributes(info: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == _SIZED:
            yield attribute, info[at : at + size]
            at += size


def _text(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode()
