"""The small model and the database of the tests of tuning."""

from __future__ import annotations

from tests.tuning.conftest import model, url

__all__ = ["model", "url"]
