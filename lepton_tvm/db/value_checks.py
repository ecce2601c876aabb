"""Checks of what goes into the database, so that every backend can hold it and give it back."""

from __future__ import annotations

import math

from lepton_tvm.db.records import Trial
from lepton_tvm.db.tables import MAX_CANDIDATE
from lepton_tvm.errors import InputError

__all__ = ["STATES", "check_candidate", "check_trial", "plain_text"]

STATES = ("ok", "failed", "wrong", "crashed", "timeout")


def check_trial(trial: Trial) -> None:
    """Raise InputError for a trial that cannot be stored."""
    check_candidate(trial.candidate)
    if trial.state not in STATES:
        raise InputError(f"trial {trial.id}: state {trial.state!r} is not one of {STATES}")
    times = [*trial.samples_s]
    times += [t for t in (trial.median_s, trial.reference_s) if t is not None]
    if any(not math.isfinite(t) or t < 0 for t in times):
        raise InputError(f"trial {trial.id}: times must be finite seconds, 0 or more")
    if trial.state == "ok" and trial.median_s is None:
        raise InputError(f"trial {trial.id}: state ok needs median_s")


def check_candidate(candidate: str) -> None:
    """Raise InputError for a text that cannot be part of a key."""
    size = len(candidate.encode())
    if not candidate or size > MAX_CANDIDATE or "\x00" in candidate:
        raise InputError(
            f"candidate {candidate[:40]!r}... has {size} bytes; allowed are 1 to {MAX_CANDIDATE} "
            "without NUL"
        )


def plain_text(text: str, limit: int = 100_000) -> str:
    """Text that every backend can store: no NUL, not endless."""
    return text.replace("\x00", "\ufffd")[:limit]
