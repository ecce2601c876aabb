"""Every phase of the compiler is checked."""

from __future__ import annotations

from tests.support.well_formed import every_phase_is_well_formed

__all__ = ["every_phase_is_well_formed"]
