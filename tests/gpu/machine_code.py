"""Instructions of compiled kernels, by opcode."""

from __future__ import annotations

import struct
from collections import Counter

from lepton_tvm.artifact.cubin import KernelCode

__all__ = ["FFMA", "HMMA", "IDP4A", "IMMA", "opcodes"]

#: Opcodes of SASS: the low 12 bits of an instruction of 16 bytes, the same from sm_75 to sm_90.
IMMA, HMMA, FFMA, IDP4A = 0x237, 0x23C, 0x223, 0x226


def opcodes(kernel: KernelCode) -> Counter[int]:
    """How many instructions of each opcode a kernel has."""
    return Counter(low & 0xFFF for low, _ in struct.iter_unpack("<QQ", kernel.code))
