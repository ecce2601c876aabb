"""A Relax module as text and arrays: TVM's JSON with the tensors cut out of it, and back."""

from __future__ import annotations

import base64
import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["SerializedModule", "join_module", "split_module"]

# TVM writes a tensor as the base64 of: magic, 0, device (type, id), ndim, dtype (code, bits,
# lanes), the dims, the number of bytes, the bytes; a slash is written with a backslash before it.
# A quote inside of a JSON string is escaped, so this pattern cannot match in one.
_TENSOR = re.compile(r'"type":\s*"ffi\.Tensor",\s*"data":\s*"([A-Za-z0-9+/=\\]*)"')
_HOLE = re.compile(r'"type":\s*"ffi\.Tensor",\s*"data":\s*"weight:(\d+)"')
_HEAD = struct.Struct("<QQiiiBBH")
_MAGIC = 0xDD5E40F096B4A13F
_NUMPY = {
    (0, 8): "int8", (0, 16): "int16", (0, 32): "int32", (0, 64): "int64",
    (1, 8): "uint8", (1, 16): "uint16", (1, 32): "uint32", (1, 64): "uint64",
    (2, 16): "float16", (2, 32): "float32", (2, 64): "float64", (6, 8): "bool",
}  # fmt: skip


@dataclass(frozen=True)
class SerializedModule:
    """The text of a module with `weight:N` in place of its tensors, and what those are.

    `weights[N]` holds the TVM dtype (`code`, `bits`, `lanes`) and `shape` of tensor N.
    """

    text: str
    weights: tuple[dict[str, Any], ...]


def split_module(module: Any, write: Callable[[int, bytes], None]) -> SerializedModule:
    """The text of a module; `write(N, data)` is called with each tensor as the bytes of a `.npy`.

    Tensors are decoded one at a time: beside the module only its JSON text is in memory.
    """
    import tvm

    whole = tvm.ir.save_json(module)
    weights: list[dict[str, Any]] = []
    pieces: list[str] = []
    position = 0
    for match in _TENSOR.finditer(whole):
        dtype, array = _decode(base64.b64decode(match.group(1).replace("\\", "")))
        stream = io.BytesIO()
        np.lib.format.write_array(stream, array, allow_pickle=False)
        write(len(weights), stream.getvalue())
        pieces += [whole[position : match.start(1)], f"weight:{len(weights)}"]
        weights.append(dtype)
        position = match.end(1)
    pieces.append(whole[position:])
    return SerializedModule("".join(pieces), tuple(weights))


def join_module(parts: SerializedModule, read: Callable[[int], bytes]) -> Any:
    """The module of `split_module`; `read(N)` gives the bytes of tensor N's `.npy`.

    Raises `ValueError` for text that is not a module, or arrays that do not fit it.
    """
    import tvm

    pieces: list[str] = []
    position = 0
    for match in _HOLE.finditer(parts.text):
        index = int(match.group(1))
        array = np.lib.format.read_array(io.BytesIO(read(index)), allow_pickle=False)
        start = match.start(1) - len("weight:")
        encoded = base64.b64encode(_encode(array, parts.weights[index])).decode("ascii")
        pieces += [parts.text[position:start], encoded]
        position = match.end(1)
    pieces.append(parts.text[position:])
    text = "".join(pieces)
    del pieces
    module = tvm.ir.load_json(text)
    if not isinstance(module, tvm.IRModule) or "main" not in {
        var.name_hint for var in module.get_global_vars()
    }:
        raise ValueError("it does not hold a module with a function 'main'")
    return module


def _decode(payload: bytes) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    magic, _, _, _, ndim, code, bits, lanes = _HEAD.unpack_from(payload)
    if magic != _MAGIC:
        raise ValueError("TVM wrote a tensor in a form that is not known here")
    shape = struct.unpack_from(f"<{ndim}q", payload, _HEAD.size)
    start = _HEAD.size + 8 * ndim + 8
    dtype = {"code": code, "bits": bits, "lanes": lanes, "shape": list(shape)}
    known = _NUMPY.get((code, bits)) if lanes == 1 else None
    if known is None:
        return dtype, np.frombuffer(payload, np.uint8, offset=start)
    return dtype, np.frombuffer(payload, known, offset=start).reshape(shape)


def _encode(array: np.ndarray[Any, Any], dtype: dict[str, Any]) -> bytes:
    code, bits, lanes, shape = dtype["code"], dtype["bits"], dtype["lanes"], dtype["shape"]
    known = _NUMPY.get((code, bits)) if lanes == 1 else None
    if array.dtype != np.dtype(known or "uint8") or (known and list(array.shape) != shape):
        raise ValueError(
            f"a weight is {array.dtype}{list(array.shape)}, but the manifest says {dtype}"
        )
    head = _HEAD.pack(_MAGIC, 0, 1, 0, len(shape), code, bits, lanes)
    data = array.tobytes()
    return head + struct.pack(f"<{len(shape)}q", *shape) + struct.pack("<q", len(data)) + data
