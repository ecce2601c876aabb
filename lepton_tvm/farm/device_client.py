"""A session with a device's server: calls with time limits, and losses told as such."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lepton_tvm.errors import DeviceError, LeptonError
from lepton_tvm.farm import rpc_wire as wire
from lepton_tvm.farm.tracker_client import DeviceAddress
from lepton_tvm.runtime.library import remote_calls

__all__ = ["DeviceLost", "DeviceSession"]

_CONNECT_S = 10.0
_CALL_S = 60.0
#: TVM's client has no time limits and gives no hold of its socket, so it is found among this
#: process's descriptors; sessions are opened one after another to tell them apart.
_opening = threading.Lock()


class DeviceLost(DeviceError):
    """The session with a device has ended in the middle; another device may do the work."""


class DeviceSession:
    """One client's time on a device; a context manager. Holds the device until it is closed.

    Raises DeviceLost where the device cannot be reached, DeviceError where its server is TVM's own,
    which has none of our functions.
    """

    def __init__(self, address: DeviceAddress, *, timeout_s: float = _CONNECT_S) -> None:
        self.address = address
        self._sock: socket.socket | None = None
        # TVM's client would wait for minutes for a machine that is gone.
        try:
            with socket.create_connection((address.host, address.port), timeout=timeout_s) as probe:
                peer = probe.getpeername()
        except OSError as e:
            raise DeviceLost(f"device {address} cannot be reached: {e}") from e
        connect = remote_calls("rpc.Connect")
        with _opening:
            before = _sockets_to(peer)
            try:
                session = connect(address.host, address.port, address.word, False)
            except Exception as e:
                raise DeviceLost(
                    f"device {address} did not take the session ({_last(e)}); its server prints "
                    "the reason there"
                ) from e
            self._sock = _own(_sockets_to(peer) - before)
        try:
            self._function = session[wire.FUNCTION]
        except AttributeError as e:
            self.close()
            raise DeviceError(
                f"device {address} runs TVM's own RPC server, which cannot check and time kernels "
                "by itself: start the server there with `lepton-tvm device serve`"
            ) from e
        except Exception as e:
            self.close()
            raise DeviceLost(f"device {address} ended the session: {_last(e)}") from e

    def ask(
        self,
        command: str,
        body: Mapping[str, Any] | None = None,
        data: bytes = b"",
        *,
        timeout_s: float = _CALL_S,
    ) -> tuple[dict[str, Any], bytes]:
        """Have the device do a command of `device.session`; its answer and the bytes with it.

        Raises DeviceLost where the session ends or no answer comes within `timeout_s`; the class of
        `lepton_tvm.errors` that the device names where the command failed there.
        """
        call = _Call(self._function, command, json.dumps(dict(body or {})), data)
        try:
            # In a thread of its own, so that Ctrl-C is heard while the device works.
            ended = call.wait(timeout_s)
        except BaseException:
            self.close()
            raise
        if not ended or call.error is not None:
            self.close()
            why = f"it gave no answer in {timeout_s:.0f} s"
            if ended and call.error is not None:
                why = f"the session ended ({_last(call.error)})"
            text = f"device {self.address} was lost during {command!r}: {why}"
            raise DeviceLost(text) from call.error
        answer, payload = call.answer
        if "error" in answer:
            raise _error(answer, self.address)
        return answer, payload

    def send_files(self, files: Mapping[str, Path]) -> None:
        """Bring those of `files` (sha256 -> path) to the device that it lacks."""
        missing, _ = self.ask("missing", {"files": sorted(files)})
        for sha256 in missing["missing"]:
            data = files[sha256].read_bytes()
            self.ask("put", {"sha256": sha256}, data, timeout_s=_CALL_S + len(data) / 1e5)

    def close(self) -> None:
        """End the session: the device is free for the next client."""
        self._cut()
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        # The session of TVM ends with the last object that belongs to it.
        self._function = None

    def __enter__(self) -> DeviceSession:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _cut(self) -> None:
        sock = self._sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class _Call:
    """A call of TVM's client, which returns when it likes."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.answer: tuple[dict[str, Any], bytes] = ({}, b"")
        self.error: Exception | None = None
        self._ended = threading.Event()
        thread = threading.Thread(target=self._do, args=(function, arguments), daemon=True)
        thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether it ended within that time."""
        return self._ended.wait(seconds)

    def _do(self, function: Any, arguments: tuple[Any, ...]) -> None:
        try:
            self.answer = wire.unpacked(bytes(function(*arguments)))
        except Exception as e:
            self.error = e
        finally:
            del function
            self._ended.set()


def _sockets_to(peer: Any) -> set[int]:
    """This process's descriptors of TCP connections to `peer`."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as sock:
                    if sock.getpeername() == peer:
                        found.add(int(name))
        except OSError:
            continue
    return found


def _own(descriptors: set[int]) -> socket.socket | None:
    """A socket object of our own for the connection that TVM's client has opened."""
    if len(descriptors) != 1:
        return None
    sock = socket.socket(fileno=os.dup(descriptors.pop()))
    wire.keep_alive(sock)
    return sock


def _error(answer: Mapping[str, Any], address: DeviceAddress) -> LeptonError:
    from lepton_tvm import errors

    kind = getattr(errors, str(answer.get("kind")), DeviceError)
    if not (isinstance(kind, type) and issubclass(kind, LeptonError)):
        kind = DeviceError
    return kind(f"device {address}: {answer['error']}")


def _last(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
