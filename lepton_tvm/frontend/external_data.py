"""Weights kept in files beside the model: found, fenced in, and read into the proto."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lepton_tvm.errors import ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["all_tensors", "load_external_data"]


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


def all_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph: initializers, sparse ones, attributes of nodes, subgraphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from all_tensors(attribute.g)
            for subgraph in attribute.graphs:
                yield from all_tensors(subgraph)


def load_external_data(proto: onnx.ModelProto, path: Path, digest: _Digest) -> None:
    """Read all external weights of `proto` (at `path`) into it and feed their files to `digest`.

    Only regular files inside of the model's own folder are opened: an absolute location, `..`, and
    a symbolic link that leads out are refused, as is a range outside of the file. All files are
    checked before the first is read.
    """
    import onnx

    external = [
        tensor for tensor in _tensors(proto) if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    if not external:
        return
    plans = [_plan(tensor, path) for tensor in external]
    total = sum(length for _, _, length in plans) + path.stat().st_size
    if total > 2**31 - 1:
        raise ModelError(
            f"cannot read model '{path}': with its external weights it has {total / 2**30:.1f} GiB;"
            " this version imports models of up to 2 GiB"
        )
    for tensor, (file, offset, length) in zip(external, plans, strict=True):
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
    for file in sorted({file for file, _, _ in plans}):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from all_tensors(proto.graph)
    for function in proto.functions:
        for node in function.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t


def _plan(tensor: onnx.TensorProto, model: Path) -> tuple[Path, int, int]:
    """The file, offset and length (bytes) of one external tensor, all checked."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _resolve(tensor.name, entries.get("location", ""), model)
    size = file.stat().st_size
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else size - offset
    except ValueError:
        raise _refused(model, tensor.name, "its offset or length is not a number") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise _refused(
            model,
            tensor.name,
            f"bytes {offset} to {offset + length} of '{file.name}' are wanted, "
            f"but the file has {size}; it is truncated or belongs to another model",
        )
    wanted = _bytes_of(tensor)
    if wanted is not None and wanted != length:
        raise _refused(
            model,
            tensor.name,
            f"its shape {list(tensor.dims)} takes {wanted} bytes, but '{file.name}' gives {length}",
        )
    return file, offset, length


def _bytes_of(tensor: onnx.TensorProto) -> int | None:
    import math

    import onnx

    try:
        itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError):
        return None
    if tensor.data_type in _PACKED:
        return None
    return int(math.prod(tensor.dims) * itemsize)


_PACKED = frozenset({21, 22, 23, 25, 26})
"""Element types of less than a byte (UINT4, INT4, FLOAT4E2M1, UINT2, INT2)."""


def _resolve(name: str, location: str, model: Path) -> Path:
    if not location:
        raise _refused(model, name, "no location is given")
    if os.path.isabs(location) or location.startswith(("\\", "~")) or location[1:2] == ":":
        raise _refused(
            model,
            name,
            f"location '{location}' is absolute; only files inside of the model's folder are read",
        )
    if ".." in location.replace("\\", "/").split("/"):
        raise _refused(
            model,
            name,
            f"location '{location}' leads outside of the model's folder ('..' is not allowed)",
        )
    folder = model.parent
    file = folder / location
    try:
        real = file.resolve()
        inside = real.is_relative_to(folder.resolve())
        missing = not real.exists()
    except (OSError, ValueError, RuntimeError):
        raise _refused(model, name, f"location {location!r} is not a usable path") from None
    if not inside:
        raise _refused(
            model,
            name,
            f"'{location}' is a symbolic link that leads outside of the model's folder; "
            "put the file itself there",
        )
    if missing:
        raise _refused(
            model, name, f"'{location}' is missing from '{folder}'; copy it beside the model"
        )
    if not real.is_file() or not os.access(real, os.R_OK):
        raise _refused(model, name, f"'{location}' is not a readable regular file")
    return real


def _refused(model: Path, tensor: str, reason: str) -> ModelError:
    return ModelError(f"cannot read external data of weight '{tensor}' in '{model}': {reason}")
