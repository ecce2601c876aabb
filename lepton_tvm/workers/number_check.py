"""Whether a candidate's numbers are those of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["difference"]

Array = npt.NDArray[Any]


def difference(got: Array, want: Array, tolerance: float) -> str | None:
    """How `got` differs from `want`, two arrays of one shape and dtype; None where they agree.

    Integers must be equal. Floats (bfloat16 also) may differ by `tolerance` times the largest
    finite magnitude in `want`; NaN and infinities must stand in the same places.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"is {got.dtype}{list(got.shape)} where {want.dtype}{list(want.shape)} is due"
    if got.dtype.kind in "iub":
        return _told(got != want, got, want, "")
    found, due = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(due)
    allowed = tolerance * float(np.abs(due[finite]).max(initial=0.0))
    same = np.where(finite, False, (found == due) | (np.isnan(found) & np.isnan(due)))
    with np.errstate(invalid="ignore"):
        near = finite & (np.abs(found - due) <= allowed)
    return _told(~(same | near), got, want, f", allowed is a difference of {allowed:.3g}")


def _told(wrong: Array, got: Array, want: Array, allowed: str) -> str | None:
    count = int(np.count_nonzero(wrong))
    if not count:
        return None
    where = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    place = [int(i) for i in where]
    return (
        f"{count} of {wrong.size} values differ{allowed}; "
        f"the first at {place}: {got[where]}, the reference has {want[where]}"
    )
