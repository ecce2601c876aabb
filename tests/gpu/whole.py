"""A model compiled for a GPU and for the plainest CPU, both run through the project's runtime."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import te

import lepton_tvm as lt
from lepton_tvm import runtime
from lepton_tvm.runtime.library import cuda_runtime
from lepton_tvm.workers.kernel_build import build_kernel
from lepton_tvm.workers.kernel_run import run_kernel
from lepton_tvm.workers.trial_requests import Argument, BuildRequest, RunRequest, RunResult
from tests.support.graphs import run

__all__ = ["answer", "both", "trial"]

Array = npt.NDArray[Any]


def both(path: str, precision: str, target: str, folder: str) -> tuple[Array, Array]:
    """The outputs on the GPU and on the CPU, for the same random input.

    bfloat16, which plain CPUs have no kernels for, is compared with TVM's stock compiler.
    """
    model = lt.load_model(path)
    rng = np.random.default_rng(3)
    (info,) = model.inputs
    x = rng.random(info.shape, np.float32)
    if precision == "int8":
        some = rng.random((4, *info.shape[1:]), np.float32)
        model = lt.quantize(model, calibration={info.name: some})
    if precision == "bfloat16":
        model = lt.quantize(model, method="bfloat16")
    on_gpu, on_cpu = Path(folder) / "gpu.so", Path(folder) / "cpu.so"
    lt.compile(model, target=target, output=on_gpu, db=False)
    net = runtime.load(on_gpu)
    first, again = net(x), net(x)
    np.testing.assert_array_equal(first, again)
    assert len(net.time(repeat=1, warmup=0)) == 1
    if precision == "bfloat16":
        return first, run(model.module, x)[0]
    lt.compile(model, target="x86:sse", output=on_cpu, db=False, winograd=False)
    return first, runtime.load(on_cpu)(x)


def trial(folder: str) -> RunResult:
    """A candidate of an elementwise kernel beside the zero-trial one, as tuning runs them."""
    a, b = te.placeholder((64, 33), name="a"), te.placeholder((64, 33), name="b")
    out = te.compute((64, 33), lambda i, j: a[i, j] * b[i, j] + a[i, j])
    text = tvm.ir.save_json(tvm.IRModule({"main": te.create_prim_func([a, b, out])}))
    built = [
        str(build_kernel(BuildRequest("k", text, "cuda:sm_80", 1, decisions), folder))
        for decisions in ({}, {"threads": 64})
    ]
    rng = np.random.default_rng(0)
    arguments = []
    for name in "ab":
        path = Path(folder) / f"{name}.bin"
        path.write_bytes(rng.random((64, 33), np.float32).tobytes())
        arguments.append(Argument((64, 33), "float32", str(path)))
    given = (*arguments, Argument((64, 33), "float32", None))
    zero, candidate = built
    return run_kernel(RunRequest("k", candidate, given, zero, given, on_gpu=True))


def answer(name: str, answers: Any) -> None:
    """Put what one of the functions below says into a queue."""
    said = {"libraries": libraries, "touch": touch, "fork": fork, "limit": limit}[name]()
    answers.put(said)


def libraries() -> list[str]:
    """The files that are mapped once a tensor lies on the GPU."""
    _tensor()
    return sorted({Path(line.split()[-1]).name for line in Path("/proc/self/maps").open()})


def touch() -> int:
    """Read the GPU's memory from here."""
    tensor = _tensor()
    return ctypes.c_int.from_address(tensor.data_ptr()).value


def fork() -> str:
    """What a child is told that was forked from a process with a tensor on the GPU."""
    _tensor()
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, _refusal().encode())
        os._exit(0)
    os.close(writing)
    return os.read(reading, 4096).decode()


def limit() -> str:
    """What a process is told that may map no more than 8 GiB."""
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    return _refusal()


def _tensor() -> Any:
    cuda_runtime()
    return tvm.runtime.tensor(np.zeros(16, np.float32), tvm.cuda(0))


def _refusal() -> str:
    try:
        _tensor()
    except RuntimeError as error:
        return str(error)
    return "nothing"
