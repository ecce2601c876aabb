"""Asking a tracker (`tvm.exec.rpc_tracker`) which devices there are, and for one of them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lepton_tvm.errors import DeviceError, InputError
from lepton_tvm.farm import rpc_wire as wire

__all__ = [
    "Address",
    "DeviceAddress",
    "DeviceInfo",
    "Tracker",
    "parse_address",
    "readable_facts",
]

Address = tuple[str, int]

_SUCCESS = 0
_PUT, _REQUEST, _UPDATE_INFO, _SUMMARY, _PENDING = 3, 4, 5, 6, 7
_ANSWER_S = 10.0
_SLICE_S = 0.5


@dataclass(frozen=True)
class DeviceAddress:
    """Where a device listens, and the word that its server expects from the next client."""

    host: str
    port: int
    word: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class DeviceInfo:
    """A server as its tracker knows it; `facts` are empty for TVM's own server.

    `facts`: `machine` (`Machine.to_json`), `versions`, `threads` (the most it allows), `busy`.
    """

    key: str
    host: str
    port: int
    facts: Mapping[str, Any]

    @property
    def is_ours(self) -> bool:
        """Whether the server was started with `lepton-tvm device serve`."""
        return bool(self.facts.get("machine"))

    @property
    def fingerprint(self) -> str | None:
        """That of the machine; None for TVM's own server."""
        machine = self.facts.get("machine") or {}
        return machine.get("fingerprint")

    def __str__(self) -> str:
        cpu = (self.facts.get("machine") or {}).get("cpu")
        return f"{self.host}:{self.port}" + (f" ({cpu})" if cpu else "")


def parse_address(text: str, what: str = "--tracker") -> Address:
    """`HOST:PORT` (`[::1]:9190` for IPv6). Raises InputError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"{what} {text!r} is not HOST:PORT, for example 127.0.0.1:9190")
    return host, int(port)


class Tracker:
    """A connection to a tracker; a context manager. Raises DeviceError where there is none."""

    def __init__(self, address: Address, *, timeout_s: float = _ANSWER_S) -> None:
        self.address = address
        try:
            self._sock = socket.create_connection(address, timeout=timeout_s)
        except OSError as e:
            raise self._error(
                f"cannot be reached ({e}); start one: lepton-tvm device tracker"
            ) from e
        try:
            wire.send_int(self._sock, wire.TRACKER_MAGIC)
            is_tracker = wire.receive_int(self._sock) == wire.TRACKER_MAGIC
        except OSError as e:
            self.close()
            raise self._error(f"does not answer as TVM's tracker does ({e})") from e
        if not is_tracker:
            self.close()
            raise self._error("is not TVM's RPC tracker")
        wire.keep_alive(self._sock)

    def summary(self) -> dict[str, Any]:
        """What the tracker tells: `queue_info` by key, `server_info`."""
        code, value = self._ask([_SUMMARY])
        if code != _SUCCESS or not isinstance(value, dict):
            raise self._error(f"gave no summary (code {code})")
        return value

    def devices(self, key: str | None = None) -> list[DeviceInfo]:
        """All servers, or those of one key, in the order of key and address."""
        found = [_device(entry) for entry in self.summary().get("server_info", ())]
        chosen = (d for d in found if d is not None and key in (None, d.key))
        return sorted(chosen, key=lambda d: (d.key, d.host, d.port))

    def waiting(self, key: str) -> int:
        """How many requests for a device of `key` have got none yet."""
        told = self.summary().get("queue_info")
        queue = told.get(key) if isinstance(told, dict) else None
        count = queue.get("pending") if isinstance(queue, dict) else None
        return count if isinstance(count, int) else 0

    def request(
        self, key: str, *, wait_s: float, stop: Callable[[], bool] = lambda: False
    ) -> DeviceAddress | None:
        """A free device of `key`, waiting for one; None where none came or `stop` said so.

        After None the connection is closed, which takes the request back.
        """
        end = time.monotonic() + wait_s
        try:
            wire.send_json(self._sock, [_REQUEST, key, "", 1])
            while not self._readable():
                if stop() or time.monotonic() > end:
                    self.close()
                    return None
            code, value = wire.receive_json(self._sock)
        except OSError as e:
            raise self._error(f"went away ({e})") from e
        if code != _SUCCESS:
            raise self._error(f"refused to give a device of key {key!r}")
        host, port, word = value
        return DeviceAddress(str(host), int(port), str(word))

    def enlist(self, key: str, host: str | None, port: int, facts: Mapping[str, Any]) -> None:
        """Tell about a server. `host` None: as the tracker sees it."""
        self._told([_UPDATE_INFO, {"key": f"server:{key}", "addr": [host, port], wire.INFO: facts}])

    def offer(self, key: str, host: str | None, port: int, word: str) -> None:
        """Say that a server is free for a client that knows `word`."""
        self._told([_PUT, key, [port, word], host])

    def pending(self) -> list[str]:
        """The words of this connection that no client has been given yet."""
        return list(self._ask([_PENDING]))

    def close(self) -> None:
        """End the connection: requests and offers made through it are void."""
        self._sock.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _told(self, message: Any) -> None:
        if self._ask(message) != _SUCCESS:
            raise self._error("refused the server's message")

    def _ask(self, message: Any) -> Any:
        try:
            wire.send_json(self._sock, message)
            return wire.receive_json(self._sock)
        except OSError as e:
            raise self._error(f"went away ({e})") from e

    def _readable(self) -> bool:
        before = self._sock.gettimeout()
        self._sock.settimeout(_SLICE_S)
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK)) or self._gone()
        except TimeoutError:
            return False
        finally:
            self._sock.settimeout(before)

    def _gone(self) -> bool:
        raise ConnectionError("the other side closed the connection")

    def _error(self, what: str) -> DeviceError:
        return DeviceError(f"tracker {self.address[0]}:{self.address[1]} {what}")


def _device(entry: Any) -> DeviceInfo | None:
    """A server as the tracker tells of it; None for what is none: anybody may tell it anything."""
    try:
        host, port = entry["addr"]
        key, number = str(entry["key"]).removeprefix("server:"), int(port)
    except (KeyError, TypeError, ValueError):
        return None
    return DeviceInfo(
        _printable(key), _printable(host), number, readable_facts(entry.get(wire.INFO))
    )


#: What is read of a device's facts, and of the machine in them.
_FACTS = {"machine": dict, "versions": dict, "threads": int, "flags": list}
_MACHINE = {"fingerprint": str, "cpu": str, "arch": str, "cores": int}


def readable_facts(facts: Any) -> dict[str, Any]:
    """What a server tells of itself; nothing where it is not such as ours tell."""
    if not isinstance(facts, dict) or not _has(facts, _FACTS):
        return {}
    machine, versions = facts["machine"], facts["versions"]
    if not _has(machine, _MACHINE):
        return {}
    shown = [v for v in (*machine.values(), *versions.values()) if isinstance(v, str)]
    return facts if all(v.isprintable() for v in shown) else {}


def _has(values: Mapping[str, Any], types: Mapping[str, type]) -> bool:
    return all(isinstance(values.get(name), kind) for name, kind in types.items())


def _printable(value: Any) -> str:
    """Text that does nothing to a terminal."""
    text = str(value)
    return text if text.isprintable() else ascii(text)[1:-1]
