"""Three tiers of tests, told apart by folder, module and fixture: quick, slow, and the rest.

Quick tests run in this process, or build a kernel or two. `slow` ones start servers, workers or
whole searches, or compile real models. `rest` marks the slow ones that a newcomer can leave to CI:
emulators, kills, packaging. `python -m pytest` runs all but the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

import pytest

__all__ = ["HOW_TO_RUN", "mark_tiers"]

# What a test's path begins with or its file is called -> its tier. The first line that fits counts.
_BY_PATH = (
    ("tests/house/test_install.py", "rest"),
    ("tests/house/test_readme.py", "rest"),
    ("tests/house", "quick"),
    ("tests/arm/test_targets.py", "quick"),
    ("tests/arm/test_cost.py", "quick"),
    ("tests/arm", "rest"),
    ("tests/gpu/test_driver.py", "rest"),
    ("tests/gpu/test_models.py", "rest"),
    ("tests/gpu/test_kernels.py", "rest"),
    ("tests/gpu/test_tune.py", "rest"),
    ("tests/gpu", "slow"),
    ("tests/tuning/test_kills.py", "rest"),
    ("tests/tuning/test_verdicts.py", "rest"),
    ("tests/tuning/test_search.py", "quick"),
    ("tests/tuning/test_activations.py", "quick"),
    ("tests/tuning", "slow"),
    ("tests/compiler/test_tuned.py", "slow"),
    ("tests/compiler/test_schedule_version.py", "slow"),
    ("tests/farm", "slow"),
    ("tests/workers", "slow"),
    ("tests/bench", "slow"),
    ("tests/cli/test_demo.py", "slow"),
    ("tests/cli/test_tune_stops.py", "rest"),
    ("tests/db/test_many_trials.py", "slow"),
)
_REAL_MODELS = "real_models"
_SLOW_FIXTURES = frozenset({"postgres_server", "postgres_url"})

HOW_TO_RUN = (
    "Not all tests ran. `python -m pytest -m rest` runs those that are left to CI; "
    '`python -m pytest -m ""` runs all.'
)


def mark_tiers(items: Iterable[pytest.Item], root: str) -> None:
    """Mark each test `slow`, or `slow` and `rest`; quick tests get no mark."""
    for item in items:
        tier = _tier(item, root)
        if tier != "quick":
            item.add_marker(pytest.mark.slow)
        if tier == "rest":
            item.add_marker(pytest.mark.rest)


def _tier(item: pytest.Item, root: str) -> str:
    path = PurePosixPath(item.path.relative_to(root).as_posix())
    if path.stem.endswith(_REAL_MODELS):
        return "rest"
    found = next((tier for start, tier in _BY_PATH if path.is_relative_to(start)), "quick")
    if found == "quick" and _SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
        return "slow"
    return found
