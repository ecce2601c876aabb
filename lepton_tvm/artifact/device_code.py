"""Putting GPU machine code into an artifact in place of the source that TVM would leave there.

TVM packs the modules that a library imports into one blob (`src/target/codegen.cc`):

    u64 length of the rest | two vectors of u64 (the import tree)
    for each module: string kind, and string data unless the kind is `_lib`

and a CUDA module's data is `string format | map of kernels | string code`. Strings and vectors
start with a u64 count. Without a GPU the format is `cuda` and the code is source text, which would
be compiled where the artifact is loaded; here it becomes a fat binary, compiled already.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lepton_tvm.errors import ArtifactError

__all__ = ["BLOB", "device_pieces", "device_source", "packer", "with_machine_code"]

#: The symbol of the blob in the shared library.
BLOB = "__tvm_ffi__library_bin"

_KIND = b"cuda"
# What TVM's loader hands to the driver as it is: a cubin or, just as well, a fat binary.
_FORMAT = b"cubin"


def device_source(executable: Any) -> str | None:
    """The CUDA C++ source among the modules of what `tvm.compile` returns; None without any.

    Raises ArtifactError where there are several.
    """
    module = getattr(executable, "mod", None)
    found = [m for m in _tree(module) if str(m.kind) == "cuda"] if module is not None else []
    if len(found) > 1:
        raise ArtifactError(f"the compiled module holds {len(found)} CUDA modules, one is expected")
    return str(found[0].inspect_source()) if found else None


def packer(source: str, binary: bytes) -> Callable[..., str]:
    """For `export_library(fpack_imports=...)`: packs `binary` in place of `source`."""

    def pack(module: Any, is_system_lib: bool, prefix: str, folder: str) -> str:
        import tvm_ffi

        packed = tvm_ffi.get_global_func("runtime.ModulePackImportsToTensor")(module)
        blob = Path(folder) / "imports.bin"
        blob.write_bytes(with_machine_code(packed.numpy().tobytes(), source, binary))
        assembly = Path(folder) / "imports.s"
        assembly.write_text(
            f".section .rodata\n.globl {BLOB}\n.type {BLOB}, @object\n.balign 16\n{BLOB}:\n"
            f'.incbin "{blob}"\n.size {BLOB}, . - {BLOB}\n'
            '.section .note.GNU-stack,"",@progbits\n'
        )
        return str(assembly)

    return pack


def with_machine_code(blob: bytes, source: str, binary: bytes) -> bytes:
    """`blob` with `binary` in place of the CUDA module's `source`."""
    code = source.encode()
    made, changed = [], 0
    head, modules = _modules(blob)
    for kind, data in modules:
        made.append(_string(kind))
        if data is None:
            continue
        if kind == _KIND:
            data = _replaced(data, code, binary)
            changed += 1
        made.append(_string(data))
    if changed != 1:
        raise ArtifactError(f"the packed imports hold {changed} CUDA modules, one is expected")
    body = head + b"".join(made)
    return struct.pack("<Q", len(body)) + body


def device_pieces(blob: bytes) -> list[tuple[str, bytes]]:
    """(format, code) of every CUDA module in a blob, read without loading anything."""
    found = []
    for kind, data in _modules(blob)[1]:
        if kind == _KIND and data is not None:
            form, _ = _read_string(data, 0)
            start = _code_start(data)
            found.append((form.decode(), data[start:]))
    return found


def _modules(blob: bytes) -> tuple[bytes, list[tuple[bytes, bytes | None]]]:
    """The import tree's bytes, then kind and data of each module."""
    at = 8
    for _ in range(2):
        (count,) = struct.unpack_from("<Q", blob, at)
        at += 8 + 8 * count
    head, found = blob[8:at], list[tuple[bytes, bytes | None]]()
    (length,) = struct.unpack_from("<Q", blob, 0)
    while at < 8 + length:
        kind, at = _read_string(blob, at)
        data = None
        if kind != b"_lib":
            data, at = _read_string(blob, at)
        found.append((kind, data))
    return head, found


def _replaced(data: bytes, code: bytes, binary: bytes) -> bytes:
    form, rest = _read_string(data, 0)
    tail = _string(code)
    if form != b"cuda" or not data.endswith(tail):
        raise ArtifactError("TVM packed its CUDA module in an unknown form")
    return _string(_FORMAT) + data[rest : -len(tail)] + _string(binary)


def _code_start(data: bytes) -> int:
    """Where the code begins: the last string reaches to the end."""
    start = data.find(_FATBIN)
    if start < 8 or struct.unpack_from("<Q", data, start - 8)[0] != len(data) - start:
        raise ArtifactError("the CUDA module holds no fat binary")
    return start


_FATBIN = b"\x50\xed\x55\xba"  # the first bytes of a fat binary, 0xBA55ED50


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _read_string(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + length], at + 8 + length


def _tree(module: Any) -> Iterator[Any]:
    yield module
    for child in module.imports:
        yield from _tree(child)
