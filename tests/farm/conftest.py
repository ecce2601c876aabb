"""Servers that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import device_kernels as kernels
from tests.support import servers
from tests.support.local_workers import builder, runner
from tests.support.tuned_model import model

__all__ = [
    "builder", "libraries", "lone", "model", "other", "runner", "tracker", "work",
]  # fmt: skip


#: The options of `device serve` for a machine that says it is another one.
OTHER = """
import dataclasses, sys
from lepton_tvm.bench import device_main
from lepton_tvm.farm import serve_device
here = serve_device.this_machine()
serve_device.this_machine = lambda: dataclasses.replace(here, cpu="Other CPU")
sys.exit(device_main.main())
"""


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Kernels by kind, compiled once."""
    folder = tmp_path_factory.mktemp("kernels")
    return {kind: kernels.make(folder, kind) for kind in ("double", "wrong", "crash", "hang")}


@pytest.fixture(scope="session")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Running]:
    """A tracker."""
    with servers.tracker(tmp_path_factory.mktemp("tracker")) as running:
        yield running


@pytest.fixture(scope="session")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Running]:
    """A device without a tracker."""
    with servers.device(tmp_path_factory.mktemp("device")) as running:
        yield running


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder for the arguments of kernels."""
    return tmp_path


@pytest.fixture(scope="session")
def other(
    tmp_path_factory: pytest.TempPathFactory, tracker: servers.Running
) -> Iterator[servers.Running]:
    """A device that says it is another machine, by the key `other`."""
    folder = tmp_path_factory.mktemp("other")
    options = ["--port", "0", "--tracker", tracker.address, "--key", "other", "--threads", "1"]
    with servers.started(folder, "other", ["-c", OTHER, *options]) as running:
        running.wait_for("offered")
        yield running
