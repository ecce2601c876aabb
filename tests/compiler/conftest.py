"""The small model and the database of the tests of tuning; every phase is checked."""

from __future__ import annotations

from tests.support.well_formed import every_phase_is_well_formed
from tests.tuning.conftest import model, url

__all__ = ["every_phase_is_well_formed", "model", "url"]
