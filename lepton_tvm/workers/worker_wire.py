"""Messages between the processes of trials: JSON objects in frames, and requests as such objects.

A frame is its length (four bytes, big-endian) and so many bytes of UTF-8 JSON. Nothing is pickled.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lepton_tvm.workers.trial_requests import Argument, BuildRequest, Built, RunRequest, RunResult

__all__ = [
    "build_request",
    "built",
    "receive",
    "run_request",
    "run_result",
    "send",
    "to_json",
]

_LENGTH = struct.Struct(">I")
_LARGEST = 1 << 30


def send(channel: socket.socket, message: Mapping[str, Any]) -> None:
    """Send one object. Raises OSError where the other end is gone."""
    data = json.dumps(message).encode()
    channel.sendall(_LENGTH.pack(len(data)) + data)


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """The next object; None where the other end is gone, also in the middle of a frame."""
    head = _exactly(channel, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > _LARGEST:
        return None
    data = _exactly(channel, length)
    if data is None:
        return None
    try:
        message = json.loads(data)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def to_json(value: BuildRequest | Built | RunRequest | RunResult) -> dict[str, Any]:
    """The fields of a request or of an answer."""
    return asdict(value)


def build_request(fields: Mapping[str, Any]) -> BuildRequest:
    """Inverse of `to_json`."""
    return BuildRequest(**fields)


def built(fields: Mapping[str, Any]) -> Built:
    """Inverse of `to_json`."""
    asked = {n: (tuple(choices), default) for n, (choices, default) in fields["asked"].items()}
    return Built(**{**fields, "asked": asked})


def run_request(fields: Mapping[str, Any]) -> RunRequest:
    """Inverse of `to_json`."""
    both = ("arguments", "reference_arguments")
    return RunRequest(**{**fields, **{name: _arguments(fields[name]) for name in both}})


def run_result(fields: Mapping[str, Any]) -> RunResult:
    """Inverse of `to_json`."""
    samples = {name: tuple(fields[name]) for name in ("samples_s", "reference_s")}
    return RunResult(**{**fields, **samples})


def _arguments(items: Any) -> tuple[Argument, ...]:
    return tuple(Argument(**{**i, "shape": tuple(i["shape"])}) for i in items)


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    parts, missing = [], size
    while missing:
        try:
            part = channel.recv(min(missing, 1 << 20))
        except InterruptedError:
            continue
        except OSError:
            return None
        if not part:
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
