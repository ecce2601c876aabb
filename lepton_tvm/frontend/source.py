"""Reading an ONNX file: every guard between a path and a `ModelProto` with all its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_tvm.errors import ModelError
from lepton_tvm.frontend.external_data import load_external_data

if TYPE_CHECKING:
    import onnx

__all__ = ["MAX_BYTES", "Source", "checked_file", "read_onnx", "size_text"]

MAX_BYTES = 2**31 - 1
"""The most bytes that one protobuf message can hold; onnx and its tools stop there."""

_FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself; run `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint or an archive?)"),
    (b"\x7fELF", "an ELF binary (a compiled artifact?); artifacts are opened by `runtime.load`"),
    (b"\x89HDF", "an HDF5 file (Keras?)"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x80\x02", "a Python pickle (a PyTorch checkpoint?)"),
    (b"\x80\x04", "a Python pickle"),
    (b"GGUF", "a GGUF file"),
)


@dataclass(frozen=True, eq=False)
class Source:
    """An ONNX model as read: all weights in memory, and the sha256 of everything it came from."""

    proto: onnx.ModelProto
    sha256: str
    path: Path


def checked_file(path: str | Path) -> Path:
    """The path of an existing, readable, non-empty regular file, else a `ModelError`."""
    where = Path(path)
    try:
        if not where.exists():
            raise ModelError(f"cannot read model '{path}': the file does not exist")
        if where.is_dir():
            raise ModelError(f"cannot read model '{path}': it is a folder; name the file in it")
        if not where.is_file():
            raise ModelError(f"cannot read model '{path}': it is not a regular file")
        size = where.stat().st_size
        with where.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ModelError(f"cannot read model '{path}': {error.strerror or error}") from None
    if size == 0:
        raise ModelError(f"cannot read model '{path}': the file is empty; export or copy it again")
    return where


def read_onnx(path: Path) -> Source:
    """Read an ONNX file and its external data.

    Returns the model with every weight inside (no `external_data` left). The hash is the sha256 of
    the file; where there is external data, of the file's bytes followed by each data file's bytes
    in the order of their names.

    Raises `ModelError`: not a protobuf, no graph, too large, or external data that is missing,
    too short, or outside of the model's folder.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ModelError(
            f"cannot read model '{path}': {size_text(size)}, but an ONNX file holds at most 2 GiB; "
            "save it with its weights as external data"
        )
    proto = _parse(path)
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    load_external_data(proto, path, digest)
    return Source(proto, digest.hexdigest(), path)


def size_text(size: int) -> str:
    """A number of bytes for people: `18.6 MB`, `3.2 GiB`."""
    if size >= 2**30:
        return f"{size / 2**30:.1f} GiB"
    return f"{size / 1e6:.1f} MB"


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def _parse(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    with path.open("rb") as file:
        head = file.read(512)
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise ModelError(f"cannot read model '{path}': this is {what}, not an ONNX file")
    if head[4:8] == b"TFL3":
        raise ModelError(f"cannot read model '{path}': this is a TensorFlow Lite file, not ONNX")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except (DecodeError, ValueError):
        if _is_text(head):
            raise ModelError(
                f"cannot read model '{path}': this is a text file, not a binary ONNX model"
            ) from None
        raise ModelError(
            f"cannot read model '{path}': not an ONNX model, or a truncated one "
            f"({size_text(path.stat().st_size)} that do not decode as protobuf); copy it again"
        ) from None
    if not proto.HasField("graph") or not proto.opset_import or not proto.graph.output:
        what = "a text file" if _is_text(head) else "not an ONNX model, or a truncated one"
        raise ModelError(
            f"cannot read model '{path}': this is {what}: it decodes, but holds no complete graph"
        )
    return proto


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # A multi-byte character may be cut at the end of the sample.
        if error.start < len(head) - 4:
            return False
        text = head[: error.start].decode("utf-8")
    return all(c.isprintable() or c in "\r\n\t" for c in text)
