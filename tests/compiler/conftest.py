"""The small model and the database of the tests of tuning; every phase is checked."""

from __future__ import annotations

from tests.support.tuned_model import model, url
from tests.support.well_formed import every_phase_is_well_formed

__all__ = ["every_phase_is_well_formed", "model", "url"]
