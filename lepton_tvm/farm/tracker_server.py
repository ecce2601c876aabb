"""TVM's own tracker in this process, listening where it is told to."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from lepton_tvm.farm.listening import is_loopback, listen

__all__ = ["FIRST_PORT", "serve_tracker"]

FIRST_PORT = 9190
_PORTS = range(FIRST_PORT, FIRST_PORT + 10)


def serve_tracker(
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    say: Callable[[str], None] = print,
) -> tuple[str, int]:
    """Track devices until the process is told to end (Ctrl-C, SIGTERM); where it listened.

    `port` None takes the first free one from 9190, 0 any. Raises InputError for an address that
    cannot be listened on.
    """
    # Only the runtime is wanted; `import tvm` reads this once.
    os.environ.setdefault("TVM_USE_RUNTIME_LIB", "1")
    from tvm.rpc.base import random_key
    from tvm.rpc.tracker import _tracker_server

    listener = listen(host, _PORTS if port is None else [port])
    address = (host, int(listener.getsockname()[1]))
    if not is_loopback(host):
        say(
            f"warning: listening on {host}: anyone who can reach this port is sent to the devices "
            "and can run any code there; use a network where everybody is trusted"
        )
    say(f"tracking on {host}:{address[1]}")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _track(_tracker_server, listener, random_key("tracker"))
    except KeyboardInterrupt:
        say("stopped")
    return address


def _track(server: Callable[..., None], listener: socket.socket, stop_key: str) -> None:
    try:
        server(listener, stop_key)
    finally:
        listener.close()


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt
