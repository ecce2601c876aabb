"""Servers that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import lepton
from tests.device import kernels, servers

__all__ = ["lepton", "libraries", "lone", "tracker", "work"]


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
