"""Where the tests run GPU kernels: always in the emulator, and on a GPU where there is one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest

from lepton_tvm.targets.driver import gpus
from tests.gpu import cases, emulator

Run = Callable[..., Any]


@pytest.fixture(scope="session", params=["emulated", "gpu"])
def kernels(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Calls a function in a process of its own that has the emulator, or a real GPU.

    A kernel that ends the process (the emulator does so on a bad address) ends that one.
    """
    emulated = request.param == "emulated"
    if not emulated and not gpus().devices:
        pytest.skip(f"needs an NVIDIA GPU: {gpus().reason}")
    pools = [_pool(emulated)]

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return pools[-1].submit(function, *arguments).result(timeout=300)
        except Exception:
            pools.append(_pool(emulated))
            raise

    yield run
    for pool in pools:
        pool.shutdown(cancel_futures=True)


def _pool(emulated: bool) -> ProcessPoolExecutor:
    fresh = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, fresh, cases.prepare, (emulated,))
    with emulator.emulated() if emulated else nullcontext():
        pool.submit(int).result()  # the process starts with the environment of now
    return pool
