"""The process of one session on a device: TVM's RPC loop, and one function that does our commands.

Every command takes a JSON object and bytes and answers both; a failure is answered as `error`, so
that an exception on the client's side always means that the session is lost.

| command | body | answer |
|---|---|---|
| `hello` | | the facts that the tracker tells too |
| `missing` | `files`: sha256s | `missing`: those that must be brought |
| `put` | `sha256`, and the content as bytes | |
| `measure` | `request`: a `RunRequest`, sha256s for paths; `timeout_s` | `result`: a `RunResult` |
| `open` | `artifacts`: sha256s, `threads` | `opened`: sha256 -> manifest |
| `infer` | `artifact`, and inputs as .npz | outputs as .npz |
| others | those of the handlers that the server was given | |
| `time` | `artifacts`, `rounds`, and inputs as .npz | `seconds`: samples by sha256 |
| `time_kernels` | the same | `seconds`: by sha256, a row of kernels' times for each round |
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lepton_tvm.errors import InputError, LeptonError
from lepton_tvm.farm import rpc_wire as wire
from lepton_tvm.farm.device_artifacts import arrays_from, arrays_to
from lepton_tvm.farm.kernel_runs import KernelRuns, check_threads
from lepton_tvm.farm.session_files import SessionFiles
from lepton_tvm.measure.latency import Rounds
from lepton_tvm.measure.loaded_artifacts import LocalArtifacts
from lepton_tvm.runtime.library import ffi, remote_calls

__all__ = ["Handler", "MakeHandler", "Session", "run_session"]

_PR_SET_PDEATHSIG = 1

Answer = tuple[dict[str, Any], bytes]


class Handler(Protocol):
    """Commands that a session offers beside its own, from a layer above."""

    #: Their names.
    commands: tuple[str, ...]

    def do(self, command: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Do one of them. Raises LeptonError."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


#: Makes the handler of a session from its files, its own folder and the most threads.
MakeHandler = Callable[[SessionFiles, Path, int], Handler]


class Session:
    """What one client can have done on this device; `folder` is the session's own."""

    def __init__(
        self, folder: Path, facts: Mapping[str, Any], handlers: Sequence[MakeHandler] = ()
    ) -> None:
        self._facts = dict(facts)
        self._files = SessionFiles(folder)
        most = int(self._facts.get("threads") or len(os.sched_getaffinity(0)))
        self._kernels = KernelRuns(self._files, most)
        self._artifacts = LocalArtifacts()
        self._most = most
        self._handlers = [make(self._files, folder, most) for make in handlers]
        self._commands: dict[str, Callable[[dict[str, Any], bytes], Answer]] = {
            "hello": lambda _body, _data: (self._facts, b""),
            "missing": lambda body, _data: ({"missing": self._files.missing(body["files"])}, b""),
            "put": self._put,
            "measure": lambda body, _data: (self._kernels.measure(**body), b""),
            "open": self._open,
            "infer": self._infer,
            "time": lambda body, data: self._time(self._artifacts.time, body, data),
            "time_kernels": lambda body, data: self._time(self._artifacts.time_kernels, body, data),
        }
        for handler in self._handlers:
            self._commands.update((name, _handled(handler, name)) for name in handler.commands)

    def do(self, command: str, body: str, data: Any) -> bytes:
        """Do a command; `wire.packed` JSON and bytes. Raises nothing."""
        try:
            if command not in self._commands:
                known = ", ".join(self._commands)
                raise InputError(f"unknown command {command!r}; this server has {known}")
            answer, payload = self._commands[command](json.loads(body), bytes(data))
        except Exception as e:
            # A client that is served by another version must still understand.
            kind = type(e).__name__ if isinstance(e, LeptonError) else "DeviceError"
            text = str(e) if isinstance(e, LeptonError) else f"{type(e).__name__}: {e}"
            return wire.packed({"error": text, "kind": kind})
        return wire.packed(answer, payload)

    def close(self) -> None:
        """End the processes that run candidate kernels."""
        self._kernels.close()
        for handler in self._handlers:
            handler.close()

    def _put(self, body: dict[str, Any], data: bytes) -> Answer:
        self._files.put(str(body["sha256"]), data)
        return {}, b""

    def _open(self, body: dict[str, Any], _data: bytes) -> Answer:
        check_threads(body["threads"], self._most)
        paths = {sha256: self._files.path(sha256, check=True) for sha256 in body["artifacts"]}
        return {"opened": self._artifacts.open(paths, body["threads"])}, b""

    def _infer(self, body: dict[str, Any], data: bytes) -> Answer:
        return {}, arrays_to(self._artifacts.infer(body["artifact"], arrays_from(data)))

    def _time(self, timed: Callable[..., Any], body: dict[str, Any], data: bytes) -> Answer:
        rounds, feed = Rounds(**body["rounds"]), arrays_from(data)
        return {"seconds": timed(body["artifacts"], feed, rounds)}, b""


def _handled(handler: Handler, name: str) -> Callable[[dict[str, Any], bytes], Answer]:
    return lambda body, _data: (handler.do(name, body), b"")


def run_session(
    descriptor: int, folder: Path, facts: Mapping[str, Any], handlers: Sequence[MakeHandler] = ()
) -> None:
    """Serve the client behind a connected socket until it leaves. Call in a process of its own."""
    os.setsid()
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(folder)
    session = Session(folder, facts, handlers)
    _register(wire.FUNCTION, session.do)
    # What TVM's own clients expect; `upload`, `download` and `remove` of TVM ask for `workpath`.
    _register("tvm.rpc.server.workpath", lambda name: str(_inside(folder, name)))
    _register("tvm.rpc.server.load_module", lambda name: _load_module(_inside(folder, name)))
    _register("tvm.rpc.server.listdir", lambda name: ",".join(os.listdir(_inside(folder, name))))
    try:
        remote_calls("rpc.ServerLoop")(descriptor)
    finally:
        session.close()


def _register(name: str, function: Callable[..., Any]) -> None:
    ffi().register_global_func(name, function, override=True)


def _load_module(path: Path) -> Any:
    return ffi().load_module(str(path), keep_module_alive=False)


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"{name!r} is outside of the session's folder")
    return path


def _end_with_parent() -> None:
    """Have Linux end this process with the server, however that ends."""
    parent = os.getppid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError):
        os.kill(parent, 0)
    if os.getppid() != parent:
        os._exit(1)
