"""One builder and one runner for the tests that do not end them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lepton_tvm.workers import LocalRunner, ParallelBuilder


@pytest.fixture(scope="package")
def builder() -> Iterator[ParallelBuilder]:
    """A builder of two workers."""
    with ParallelBuilder(2) as made:
        yield made


@pytest.fixture(scope="package")
def runner() -> Iterator[LocalRunner]:
    """A runner with little patience."""
    with LocalRunner(timeout_s=5.0) as made:
        yield made
