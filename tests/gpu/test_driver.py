"""The emulated driver is as strict as a real one where a mistake would else pass unseen."""

from __future__ import annotations

import multiprocessing
import signal
from typing import Any

import pytest

from tests.gpu import emulator, whole


@pytest.fixture
def emulated() -> Any:
    """Runs a function in a new process that has the emulated driver; its exit code and answer."""
    fresh = multiprocessing.get_context("spawn")

    def run(name: str) -> tuple[int | None, Any]:
        answers = fresh.Queue()
        process = fresh.Process(target=whole.answer, args=(name, answers))
        with emulator.emulated():
            process.start()
        process.join(120)
        return process.exitcode, None if answers.empty() else answers.get()

    return run


def test_tvms_own_runtime_is_what_launches(emulated: Any) -> None:
    code, libraries = emulated("libraries")
    assert code == 0
    assert {"libtvm_runtime_cuda.so", "libcuda.so.1", "libcudart.so.13"} <= set(libraries)


def test_memory_of_the_device_is_not_for_the_host(emulated: Any) -> None:
    assert emulated("touch") == (-signal.SIGSEGV, None)


def test_a_forked_process_cannot_use_it(emulated: Any) -> None:
    code, told = emulated("fork")
    assert code == 0
    assert "error 3" in told  # CUDA_ERROR_NOT_INITIALIZED


def test_a_limit_on_address_space_is_too_little(emulated: Any) -> None:
    code, told = emulated("limit")
    assert code == 0
    assert "error 2" in told  # CUDA_ERROR_OUT_OF_MEMORY
