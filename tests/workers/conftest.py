"""One builder and one runner for the tests that do not end them."""

from __future__ import annotations

from tests.support.local_workers import builder, runner

__all__ = ["builder", "runner"]
