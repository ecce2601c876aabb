"""A model compiled for a GPU and for the plainest CPU, both run through the project's runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import lepton_tvm as lt
from lepton_tvm import runtime
from lepton_tvm.runtime import loader
from lepton_tvm.targets.driver import Device, Devices, gpus
from tests.passes.check import run

__all__ = ["both"]

Array = npt.NDArray[Any]


def both(path: str, precision: str, target: str, folder: str) -> tuple[Array, Array]:
    """The outputs on the GPU and on the CPU, for the same random input.

    bfloat16, which plain CPUs have no kernels for, is compared with TVM's stock compiler.
    """
    if not gpus().devices:
        emulated = Devices((Device("emulated", 90, 13000),))
        setattr(loader, "gpus", lambda: emulated)  # noqa: B010  the checker knows another type
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
