"""How the manifest lies behind the code in one file, and how damage is found before loading.

The file is `[shared library][zlib(manifest JSON)][footer]`. The operating system's loader reads
only the library; the footer (56 bytes, little endian) is

    u64 length of the library | u32 length of the manifest | u32 container version
    32 bytes sha256 of everything before this field | 8 bytes magic

so a file that was cut short has no magic, and any other changed byte changes the hash.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

from lepton_tvm.artifact.manifest import check_manifest
from lepton_tvm.errors import ArtifactError

__all__ = ["file_sha256", "pack", "read_manifest", "verify"]

MAGIC = b"LEPTVMSO"
CONTAINER_VERSION = 1
_LENGTHS = struct.Struct("<QII")
_FOOTER = _LENGTHS.size + 32 + len(MAGIC)
_MAX_MANIFEST = 64 << 20


def pack(code: bytes, manifest: dict[str, Any]) -> bytes:
    """The bytes that follow the library `code` in an artifact: manifest and footer."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    packed = zlib.compress(text.encode(), 9)
    lengths = _LENGTHS.pack(len(code), len(packed), CONTAINER_VERSION)
    digest = hashlib.sha256(code + packed + lengths).digest()
    return packed + lengths + digest + MAGIC


def verify(path: str | Path) -> tuple[dict[str, Any], str]:
    """Check every byte of an artifact; its manifest and the sha256 of the whole file.

    Loads and runs nothing. Raises ArtifactError when the file is missing, foreign, damaged, or
    was written by a newer lepton_tvm.
    """
    data = _read(Path(path))
    body, digest, magic = data[:-40], data[-40:-8], data[-8:]
    if len(data) < _FOOTER or magic != MAGIC:
        raise ArtifactError(_no_magic(path, data))
    if hashlib.sha256(body).digest() != digest:
        raise ArtifactError(
            f"artifact {path} is damaged: its contents do not match the sha256 stored inside; "
            "compile it again or restore it from a good copy"
        )
    code_length, manifest_length, version = _LENGTHS.unpack(body[-_LENGTHS.size :])
    if version > CONTAINER_VERSION:
        raise ArtifactError(
            f"artifact {path} has container version {version}, this lepton_tvm reads up to "
            f"{CONTAINER_VERSION}; upgrade lepton_tvm"
        )
    if code_length + manifest_length + _LENGTHS.size != len(body):
        raise ArtifactError(f"artifact {path} is damaged: its lengths do not add up")
    manifest = _decode(body[code_length : code_length + manifest_length], path)
    check_manifest(manifest, str(path))
    return manifest, hashlib.sha256(data).hexdigest()


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of an artifact, after every byte was checked; loads and runs no code.

    Raises ArtifactError as `verify` does.
    """
    return verify(path)[0]


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file as hex digits. Raises ArtifactError when it cannot be read."""
    return hashlib.sha256(_read(Path(path))).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"artifact {path} does not exist") from None
    except OSError as e:
        raise ArtifactError(f"cannot read artifact {path}: {e.strerror or e}") from e


def _no_magic(path: str | Path, data: bytes) -> str:
    if not data:
        return f"artifact {path} is empty"
    if not data.startswith(b"\x7fELF"):
        return f"{path} is not an artifact: it is not a shared library"
    return (
        f"{path} has no lepton_tvm manifest at its end: it was cut short, "
        "or it was not written by lepton_tvm"
    )


def _decode(packed: bytes, path: str | Path) -> dict[str, Any]:
    try:
        unpack = zlib.decompressobj()
        text = unpack.decompress(packed, _MAX_MANIFEST)
        manifest = json.loads(text)
    except (zlib.error, ValueError) as e:
        raise ArtifactError(f"the manifest of artifact {path} cannot be read: {e}") from e
    if not isinstance(manifest, dict):
        raise ArtifactError(f"the manifest of artifact {path} is not a JSON object")
    return manifest
