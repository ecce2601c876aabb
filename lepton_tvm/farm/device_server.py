"""TVM's RPC server as a device of a farm needs it: one session at a time, each in a process.

TVM's own server listens on but serves nobody once a session was killed by a signal. Here the
process that listens runs no code of a client: it forks one process per session, ends it when it
crashed, when its time is over or when its client is gone, and serves the next.
"""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_tvm.errors import DeviceError, InputError, TrialError
from lepton_tvm.farm import rpc_wire as wire
from lepton_tvm.farm.device_session import MakeHandler, run_session
from lepton_tvm.farm.listening import listen
from lepton_tvm.farm.tracker_client import Address, Tracker
from lepton_tvm.workers.scratch_folders import Scratch

__all__ = ["Server"]

_PORTS = range(9090, 9200)
_PING_S = 2.0
_HANDSHAKE_S = 3.0
_UNUSED_S = 8.0  # a word that was given away and not used is replaced after this
_RETRY_S = 2.0
_GRACE_S = 3.0  # what a session may take to end when its client is gone
_POLL_MS = 50
_LONGEST_KEY = 4096


@dataclass(frozen=True)
class _Client:
    """A connection whose handshake is done; `timeout_s` is what the client allows its session."""

    sock: socket.socket
    name: str
    timeout_s: float | None


class Server:
    """Listens on `host` as soon as it is made; `serve` serves until the process is told to end.

    `port` None takes the first free one from 9090, 0 any. With a `tracker` the server offers itself
    under `key`. `facts` are what the tracker tells of it, `handlers` make further commands. Raises
    InputError for a host or port that cannot be listened on.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        tracker: Address | None = None,
        key: str = "",
        facts: Mapping[str, Any] | None = None,
        handlers: Sequence[MakeHandler] = (),
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        if tracker is not None and not key:
            raise InputError("a device that offers itself to a tracker needs a --key")
        if any(c.isspace() or c == ":" for c in key):
            raise InputError(f"--key {key!r}: a key has no spaces and no colons")
        self.host, self.key = host, key
        self._facts = dict(facts or {})
        self._handlers = tuple(handlers)
        self._tracker_address = tracker
        self._say = say
        self._tracker: Tracker | None = None
        self._word, self._word_since = key, 0.0
        self._retry_at = 0.0
        #: How many sessions have ended so far.
        self.sessions = 0
        self._listener = listen(host, _PORTS if port is None else [port])
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Serve clients one after another; ends by KeyboardInterrupt or a signal only."""
        try:
            while True:
                self._keep_offer()
                client = self._accept()
                if client is not None:
                    self._serve(client)
        finally:
            self._listener.close()
            self._drop_tracker()

    # the tracker

    def _keep_offer(self) -> None:
        """Be known to the tracker under a word that the next client can be given."""
        if self._tracker_address is None:
            return
        try:
            if self._tracker is None:
                self._join()
            elif self._word not in self._tracker.pending():
                if time.monotonic() - self._word_since > _UNUSED_S:
                    self._offer()
            else:
                self._word_since = time.monotonic()
        except DeviceError as e:
            self._drop_tracker()
            self._retry_at = time.monotonic() + _RETRY_S
            self._say(f"{e}; trying again")

    def _join(self) -> None:
        if self._tracker_address is None or time.monotonic() < self._retry_at:
            return
        self._tracker = Tracker(self._tracker_address)
        self._enlist(busy=False)
        self._offer()
        self._say(f"offered to tracker {self._tracker_address[0]}:{self._tracker_address[1]}")

    def _enlist(self, *, busy: bool) -> None:
        if self._tracker is not None:
            facts = {**self._facts, "busy": busy}
            self._tracker.enlist(self.key, self._told_host(), self.port, facts)

    def _offer(self) -> None:
        if self._tracker is not None:
            self._word = f"{self.key}:{random.SystemRandom().random()}"
            self._word_since = time.monotonic()
            self._tracker.offer(self.key, self._told_host(), self.port, self._word)

    def _told_host(self) -> str | None:
        """A host that was named is told on; for "any" the tracker tells what it sees."""
        return None if self.host in ("", "0.0.0.0", "::") else self.host

    def _drop_tracker(self) -> None:
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None

    # clients

    def _accept(self) -> _Client | None:
        """The next client that knows the word; None after a while without."""
        if not select.select([self._listener], [], [], _PING_S)[0]:
            return None
        try:
            sock, address = self._listener.accept()
        except OSError:
            return None
        try:
            sock.settimeout(_HANDSHAKE_S)
            timeout_s = self._handshake(sock)
            sock.settimeout(None)
            wire.keep_alive(sock)
        except (OSError, ValueError) as e:
            sock.close()
            if str(e):
                self._say(f"no session for {address[0]}: {e}")
            return None
        return _Client(sock, f"{address[0]}:{address[1]}", timeout_s)

    def _handshake(self, sock: socket.socket) -> float | None:
        """Raises OSError or ValueError (with no text for one that only looked whether we are)."""
        try:
            magic = wire.receive_int(sock)
        except OSError:
            raise ValueError from None
        if magic != wire.RPC_MAGIC:
            raise ValueError("it does not speak TVM's RPC")
        size = wire.receive_int(sock)
        if not 0 < size <= _LONGEST_KEY:
            raise ValueError(f"its key has {size} bytes")
        words = wire.receive(sock, size).decode("utf-8", "replace").split()
        if not words or words[0] != f"client:{self._word}":
            wire.send_int(sock, wire.CODE_MISMATCH)
            raise ValueError("its key is not this server's")
        name = f"server:{self.key}".encode()
        wire.send_int(sock, wire.RPC_MAGIC)
        wire.send_int(sock, len(name))
        sock.sendall(name)
        for word in words[1:]:
            if word.startswith("-timeout="):
                return float(word.removeprefix("-timeout=")) or None
        return None

    def _serve(self, client: _Client) -> None:
        with suppress(DeviceError):
            self._enlist(busy=True)
        try:
            self._say(f"session of {client.name}: {self._session(client)}")
        except (OSError, TrialError) as e:
            # a full disk, too many processes: things may be better when the next client comes
            self._say(f"no session for {client.name}: {e}")
        finally:
            client.sock.close()
            self.sessions += 1
        try:
            self._enlist(busy=False)
            self._offer()
        except DeviceError:
            self._drop_tracker()

    def _session(self, client: _Client) -> str:
        """A session in a process and a folder of its own; how it ended.

        Raises OSError, TrialError where there can be none.
        """
        # It goes with this process: the next one removes what a killed server left.
        scratch = Scratch()
        try:
            pid = os.fork()
            if pid == 0:
                self._run(client, scratch.path)
            reaped = False
            try:
                end, reaped = _watch(pid, client)
                return end
            finally:
                _end(pid, reaped)
        finally:
            scratch.close()

    def _run(self, client: _Client, folder: Path) -> None:
        """The session's process; does not return."""
        code = 1
        try:
            self._listener.close()
            self._drop_tracker()
            run_session(client.sock.fileno(), folder, self._facts, self._handlers)
            code = 0
        finally:
            os._exit(code)


def _watch(pid: int, client: _Client) -> tuple[str, bool]:
    """Wait for a session's end, or for a reason to end it: what to say of it, whether it ended."""
    poll = select.poll()
    poll.register(client.sock, select.POLLRDHUP)
    start, left = time.monotonic(), None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return _ended(status), True
        if left is None and poll.poll(_POLL_MS):
            left = time.monotonic()
            poll.unregister(client.sock)
        elif left is not None:
            time.sleep(_POLL_MS / 1e3)
            if time.monotonic() - left > _GRACE_S:
                return "its client is gone and it did not end: stopped", False
        if client.timeout_s is not None and time.monotonic() - start > client.timeout_s:
            return f"its time of {client.timeout_s:g} s is over: stopped", False


def _ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"crashed with signal {number} ({signal.strsignal(number)})"
    code = os.waitstatus_to_exitcode(status)
    return "ended" if code == 0 else f"ended with status {code}"


def _end(pid: int, reaped: bool) -> None:
    """End a session's process, unless it was waited for, and all of its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if not reaped:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
