"""Runs on the (emulated) ARM machine: kernels of a library, or a whole model, on stored inputs.

device.py kernels LIBRARY INPUTS.npz OUTPUTS.npz    arguments of `name` are `name/0`, `name/1` ..
device.py model ARTIFACT INPUT.npy OUTPUT.npz       its answers on one and on two threads
device.py unchecked ARTIFACT                        runs it though this processor lacks features
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from lepton_tvm import runtime
from lepton_tvm.runtime import loader
from lepton_tvm.runtime.library import ffi
from lepton_tvm.runtime.net import aligned_copy


def kernels(library: str, inputs: str, outputs: str) -> None:
    """Call every function of the library; the last argument of each is its output."""
    module = ffi().load_module(library)
    stored = np.load(inputs)
    results: dict[str, Any] = {}
    for name in dict.fromkeys(key.split("/")[0] for key in stored.files):
        count = sum(key.startswith(f"{name}/") for key in stored.files)
        arrays = [aligned_copy(stored[f"{name}/{i}"]) for i in range(count)]
        module[name](*[ffi().from_dlpack(a) for a in arrays])
        results[name] = arrays[-1]
    np.savez(outputs, **results)


def model(artifact: str, inputs: str, outputs: str) -> None:
    """Answer every sample (the first axis) on one thread, `one`, and on two, `two`."""
    samples = np.load(inputs)
    answers: dict[str, Any] = {}
    for threads, name in ((1, "one"), (2, "two")):
        net = runtime.load(artifact, threads=threads)
        answers[name] = np.concatenate([net(x[None]) for x in samples])
    np.savez(outputs, **answers)


def unchecked(artifact: str) -> None:
    """Run a model without asking whether this processor can."""
    vars(loader)["check_machine"] = lambda *_, **__: None
    net = runtime.load(artifact)
    net(np.zeros(net.inputs[0].shape, net.inputs[0].dtype))


if __name__ == "__main__":
    modes: dict[str, Any] = {"kernels": kernels, "model": model, "unchecked": unchecked}
    modes[sys.argv[1]](*sys.argv[2:])
