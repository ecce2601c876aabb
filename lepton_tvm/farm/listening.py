"""Sockets that servers of a farm listen on, and who can reach them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from lepton_tvm.errors import InputError

__all__ = ["is_loopback", "listen"]


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach what listens on `host`."""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def listen(host: str, ports: Sequence[int]) -> socket.socket:
    """A listening socket on the first of `ports` that is free. Raises InputError."""
    problem: OSError | None = None
    for number in ports:
        try:
            family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][0]
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as e:
            raise InputError(f"cannot listen on {host!r}: {e}") from e
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, number))
            sock.listen(16)
            return sock
        except OSError as e:
            sock.close()
            problem = e
    asked = f"port {ports[0]}" if len(ports) == 1 else f"ports {ports[0]} to {ports[-1]}"
    other = "--host" if problem and problem.errno == errno.EADDRNOTAVAIL else "--port"
    raise InputError(f"cannot listen on {host}, {asked}: {problem}; name another with {other}")
