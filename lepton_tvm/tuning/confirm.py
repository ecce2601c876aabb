"""The last word on a search: the best candidates are timed again, longer, before one may win."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lepton_tvm.db import Winner
from lepton_tvm.measure import Estimate
from lepton_tvm.tuning.search import TaskState
from lepton_tvm.tuning.space import ZERO_TRIAL, Point
from lepton_tvm.tuning.trial_loop import TrialLoop

__all__ = ["confirm"]

# So many candidates of a kernel go to the last round, if they looked this much faster.
_FINALISTS = 3
_LOOKED_FASTER = 1.01
# A candidate wins only if it is faster by this much with 95 % confidence.
_SURELY_FASTER = 1.005
# Seconds for which a candidate and the zero-trial kernel are run in turns.
_BUDGET_S = 0.4


def confirm(loop: TrialLoop) -> dict[str, Winner]:
    """One winner for each task, by hash: the zero-trial schedule unless another is surely faster.

    Candidates whose numbers differ from the zero-trial kernel's are out.
    """
    finalists = {
        key: found for key, state in loop.search.states.items() if (found := _finalists(state))
    }
    pairs = [(loop.search.states[key].task, p) for key, found in finalists.items() for p in found]
    speedups = loop.time_again(pairs, _BUDGET_S)
    winners = {}
    for key, state in loop.search.states.items():
        measured = {
            p.text: (p, speedups[key, p.text])
            for p in finalists.get(key, ())
            if (key, p.text) in speedups
        }
        winners[key] = _winner(loop, state, measured)
    return winners


def zero_trial_winner(loop: TrialLoop, state: TaskState) -> Winner:
    """The verdict that nothing is to replace the zero-trial schedule."""
    return _winner(loop, state, {})


def _finalists(state: TaskState) -> list[Point]:
    ranked = sorted(state.records.values(), key=lambda r: -r.speedup)
    texts = [r.text for r in ranked if r.text != ZERO_TRIAL and r.speedup > _LOOKED_FASTER]
    points = [state.space.from_text(text) for text in texts[:_FINALISTS]]
    return [p for p in points if p is not None]


def _winner(
    loop: TrialLoop, state: TaskState, measured: Mapping[str, tuple[Point, Estimate]]
) -> Winner:
    zero = Winner(
        key=loop.keys[state.task.hash],
        trial_id=None,
        candidate=ZERO_TRIAL,
        decisions={},
        ratio=1.0,
        ci95=(1.0, 1.0),
        job_id=loop.job_id,
    )
    sure = [m for m in measured.values() if m[1].low > _SURELY_FASTER]
    if not sure:
        return zero
    point, speedup = max(sure, key=lambda m: m[1].value)
    return replace(
        zero,
        candidate=point.text,
        decisions=dict(point.decisions),
        ratio=speedup.value,
        ci95=(speedup.low, speedup.high),
    )
