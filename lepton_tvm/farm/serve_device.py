"""Making this machine a device: what it tells of itself, and its server."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from lepton_tvm.errors import DeviceError, InputError, TargetError
from lepton_tvm.farm.device_server import Server
from lepton_tvm.farm.device_session import MakeHandler
from lepton_tvm.farm.listening import is_loopback
from lepton_tvm.farm.rpc_wire import own_version
from lepton_tvm.farm.tracker_client import parse_address
from lepton_tvm.measure.machine import this_machine
from lepton_tvm.runtime.library import ffi, remote_calls, tvm_version
from lepton_tvm.targets import cpu_flags, parse_target
from lepton_tvm.targets.driver import gpus

__all__ = ["device_facts", "serve_device"]

TRUST = (
    "anyone who can reach this port can run any code here as you; use a network where everybody is "
    "trusted, or a tunnel (ssh -L)"
)


def device_facts(threads: int) -> dict[str, Any]:
    """What a device tells its tracker and its clients; JSON values.

    Found out by a process of its own: a GPU's driver that has been asked once serves no process
    that is forked afterwards, which all sessions are.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                json.dump(_facts(threads), pipe)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    if not text:
        raise DeviceError("this machine cannot be described; see the lines above")
    facts: dict[str, Any] = json.loads(text)
    return facts


def _facts(threads: int) -> dict[str, Any]:
    return {
        "machine": this_machine().to_json(),
        "flags": sorted(cpu_flags()),
        "target": _native(),
        "gpus": [asdict(gpu) for gpu in gpus().devices],
        "threads": threads,
        "versions": {"lepton_tvm": own_version(), "tvm": tvm_version()},
    }


def serve_device(
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    tracker: str | None = None,
    key: str = "",
    threads: int | None = None,
    handlers: Sequence[MakeHandler] = (),
    say: Callable[[str], None] = print,
) -> Server:
    """Serve clients until the process is told to end (Ctrl-C, SIGTERM); the server, then closed.

    `threads` is the most that a client may use; default: the cores of this process. `handlers` make
    commands beside the server's own. Raises
    InputError for an address that cannot be listened on.
    """
    cores = len(os.sched_getaffinity(0))
    most = cores if threads is None else threads
    if most < 1:
        raise InputError(f"--threads must be at least 1, found {most}")
    # Loaded once here, so that no session has to.
    ffi()
    remote_calls("rpc.ServerLoop")
    address = None if tracker is None else parse_address(tracker)
    facts = device_facts(most)
    server = Server(
        host=host, port=port, tracker=address, key=key, facts=facts, handlers=handlers, say=say
    )
    if not is_loopback(host):
        say(f"warning: listening on {host}: {TRUST}")
    elif address is not None and not is_loopback(address[0]):
        say(
            f"warning: listening on {host} only: clients on other machines that tracker {tracker} "
            "sends here cannot reach it; --host names the address to listen on"
        )
    say(f"serving on {host}:{server.port}, {facts['machine']['cpu']}, up to {most} thread(s)")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        server.serve()
    except KeyboardInterrupt:
        say("stopped")
    return server


def _native() -> str | None:
    """The best target of this machine; None where this version has none for it."""
    try:
        return str(parse_target("native"))
    except TargetError:
        return None


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt
