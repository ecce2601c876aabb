"""What a forked builder does: one kernel after another, until its parent closes the socket.

{"request": R, "path": P, "timeout_s": T}  -> the fields of `Built`
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import socket
import tempfile

import tvm
from tvm import te
from tvm.s_tir import Schedule

from lepton_tvm.errors import LeptonError
from lepton_tvm.targets import parse_target
from lepton_tvm.workers.kernel_build import build_kernel, try_build
from lepton_tvm.workers.process_limits import limit_cpu_time, limit_memory
from lepton_tvm.workers.trial_requests import BuildRequest
from lepton_tvm.workers.worker_wire import build_request, receive, send, to_json

__all__ = ["serve", "warm_up"]

_MEMORY = 4 << 30  # far more than any kernel of ours takes to compile


def warm_up() -> None:
    """Build a kernel once: what is initialised on first use is then shared by all children."""
    _trust_templates()
    # TVM's script parser asks for its callers with lines of their source, which it needs for
    # functions in classes only. That is most of the time of making an intrinsic for a schedule,
    # and every worker makes its own.
    inspect.stack = functools.partial(inspect.stack, 0)
    x = te.placeholder((64,), "float32", "x")
    function = te.create_prim_func([x, te.compute((64,), lambda i: x[i] + 1.0, "y")])
    module = tvm.ir.save_json(tvm.IRModule({"main": function}))
    with contextlib.suppress(LeptonError), tempfile.TemporaryDirectory() as folder:
        native = parse_target("native")
        build_kernel(BuildRequest("warm-up", module, str(native), native.cores, {}), folder)


def _trust_templates() -> None:
    """Call TVM's schedule primitives without the checks of argument types in front of them.

    They take a third of the time of scheduling, and find mistakes that the tests of the templates
    have found before. In this process and its children only.
    """
    for name, method in list(vars(Schedule).items()):
        checked = getattr(method, "__wrapped__", None)
        if checked is not None and name[0] != "_":
            setattr(Schedule, name, checked)


def serve(channel: socket.socket) -> None:
    """Build what is asked for; the socket's end is the end of the work."""
    limit_memory(_MEMORY)
    while (message := receive(channel)) is not None:
        limit_cpu_time(message["timeout_s"])
        send(channel, to_json(try_build(build_request(message["request"]), message["path"])))
