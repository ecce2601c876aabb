"""A process that has imported all that its children need, and forks one for each piece of work.

Started as `python -m lepton_tvm.workers.zygote WORK FD PARENT`: what its children do (`build` or
`run`), the descriptor of a socket of packets to its parent, and the parent's process id. It stays
single-threaded, so that forking is safe, and never imports the program of its parent.

One JSON object a packet. It says `{"ready": true}` once it is warm; then it is asked

    {"fork": LOG} and a socket   -> {"pid": P}: a child that serves that socket, its output in LOG
    {"reap": P, "kill": bool}    -> {"status": S}: how the child ended, killed if it has not

It ends with its parent, and its children end with it, also when either is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["WORK", "main"]


def _build() -> Any:
    from lepton_tvm.workers import build_worker

    return build_worker


def _run() -> Any:
    from lepton_tvm.workers import run_worker

    return run_worker


#: What children do -> the module whose `warm_up()` prepares it and whose `serve(channel)` does it.
#: Each is loaded only where it is needed: building loads the compiler, running does not.
WORK: dict[str, Callable[[], Any]] = {"build": _build, "run": _run}

_PR_SET_PDEATHSIG = 1
_PARENT_CHECK_MS = 2000
_PATIENCE_S = 1.0
_PACKET = 1 << 16


def main(arguments: list[str]) -> int:
    """Serve until the parent is gone."""
    work, descriptor, parent = arguments[0], int(arguments[1]), int(arguments[2])
    control = socket.socket(fileno=descriptor)
    # Where torch is installed TVM imports it: seconds of the start and twice the memory to fork.
    sys.modules["torch"] = None  # type: ignore[assignment]
    module = WORK[work]()
    module.warm_up()
    # Children write to pages that the collector marks; frozen objects are left out of that.
    gc.collect()
    gc.freeze()
    _say(control, {"ready": True})
    children: set[int] = set()
    try:
        _serve(control, parent, module.serve, children)
    finally:
        for pid in children:
            _kill(pid)
    return 0


def _serve(
    control: socket.socket, parent: int, work: Callable[[socket.socket], None], children: set[int]
) -> None:
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    while True:
        if not waiting.poll(_PARENT_CHECK_MS):
            if os.getppid() != parent:
                return
            continue
        data, descriptors, _, _ = socket.recv_fds(control, _PACKET, 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        question: dict[str, Any] = json.loads(data)
        if "fork" in question:
            pid = _fork(control, descriptors[0], question["fork"], work)
            children.add(pid)
            _say(control, {"pid": pid})
        else:
            pid = int(question["reap"])
            status = _reap(pid, bool(question["kill"]))
            children.discard(pid)
            _say(control, {"status": status})


def _fork(
    control: socket.socket, descriptor: int, log: str, work: Callable[[socket.socket], None]
) -> int:
    zygote = os.getpid()
    pid = os.fork()
    if pid:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    code = 1
    try:
        control.close()
        _become_child(zygote, log)
        work(socket.socket(fileno=descriptor))
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # Without Python's own end, which would wait for threads and run what the parent left.
        os._exit(code)


def _become_child(zygote: int, log: str) -> None:
    """A process group of its own, no core files, first to go when memory is short."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    _end_with_parent()
    if os.getppid() != zygote:
        os._exit(1)
    with contextlib.suppress(OSError):  # the disk is full: its words are lost, not its work
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _end_with_parent() -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _reap(pid: int, kill: bool) -> int:
    """The wait status of a child; one that does not end by itself is killed."""
    end = time.monotonic() + (0 if kill else _PATIENCE_S)
    while True:
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        if done:
            return status
        if time.monotonic() >= end:
            _kill(pid)
            return os.waitpid(pid, 0)[1]
        time.sleep(0.001)


def _kill(pid: int) -> None:
    """End a child and the compiler or linker that it may have started."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(pid, signal.SIGKILL)


def _say(control: socket.socket, answer: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        control.send(json.dumps(answer).encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
