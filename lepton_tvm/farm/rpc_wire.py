"""The parts of TVM's RPC protocol that are spoken here: handshake, tracker messages, keep-alive."""

from __future__ import annotations

import json
import socket
import struct
import sys
from contextlib import suppress
from typing import Any

__all__ = [
    "CODE_MISMATCH",
    "FUNCTION",
    "INFO",
    "RPC_MAGIC",
    "TRACKER_MAGIC",
    "keep_alive",
    "own_version",
    "packed",
    "receive",
    "receive_int",
    "receive_json",
    "send_int",
    "send_json",
    "unpacked",
]

RPC_MAGIC = 0xFF271
TRACKER_MAGIC = 0x2F271
CODE_MISMATCH = RPC_MAGIC + 2
#: The one function that our server adds to TVM's: (command, JSON, bytes) -> `packed` answer.
FUNCTION = "lepton_tvm.device"
#: Where a device's facts stand in what it tells the tracker.
INFO = "lepton_tvm"

_INT = struct.Struct("<i")
_MOST_JSON = 64 << 20
_LENGTH = struct.Struct("<Q")


def own_version() -> str:
    """The version of lepton_tvm (whose module, imported by name, would stand above this layer)."""
    return str(sys.modules["lepton_tvm"].__version__)


def receive(sock: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes. Raises OSError where the other side ends before."""
    parts, missing = [], count
    while missing:
        part = sock.recv(min(missing, 1 << 20))
        if not part:
            raise ConnectionError("the other side closed the connection")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def receive_int(sock: socket.socket) -> int:
    """One 32-bit little-endian number."""
    return int(_INT.unpack(receive(sock, _INT.size))[0])


def send_int(sock: socket.socket, value: int) -> None:
    """One 32-bit little-endian number."""
    sock.sendall(_INT.pack(value))


def send_json(sock: socket.socket, value: Any) -> None:
    """A message of the tracker's protocol."""
    data = json.dumps(value).encode()
    sock.sendall(_INT.pack(len(data)) + data)


def receive_json(sock: socket.socket) -> Any:
    """A message of the tracker's protocol. Raises OSError for what is none."""
    size = receive_int(sock)
    if not 0 < size <= _MOST_JSON:
        raise ConnectionError(f"a message of {size} bytes is not from TVM's tracker")
    try:
        return json.loads(receive(sock, size))
    except ValueError as e:
        raise ConnectionError(f"a message of TVM's tracker is not JSON: {e}") from e


def keep_alive(sock: socket.socket) -> None:
    """Have the system find out within about half a minute that the other machine is gone."""
    options = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def packed(answer: dict[str, Any], data: bytes = b"") -> bytes:
    """An answer of `FUNCTION`: a JSON object and bytes behind it."""
    text = json.dumps(answer).encode()
    return _LENGTH.pack(len(text)) + text + data


def unpacked(message: bytes) -> tuple[dict[str, Any], bytes]:
    """The inverse of `packed`. Raises ValueError for what it did not make."""
    if len(message) < _LENGTH.size:
        raise ValueError("the answer of the device is too short")
    end = _LENGTH.size + int(_LENGTH.unpack_from(message)[0])
    answer = json.loads(message[_LENGTH.size : end])
    if not isinstance(answer, dict) or end > len(message):
        raise ValueError("the answer of the device is damaged")
    return answer, message[end:]
