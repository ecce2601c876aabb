"""The last round of a search: who may replace a zero-trial schedule.

Trials are first impressions, of kernels that run alone. The best candidates are timed where they
are to run, inside the whole model, whose caches and memory treat a kernel otherwise than a loop
that runs nothing else. A GPU's kernels are timed alone again, for longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton_tvm.compiler.compile import CompiledArtifact
from lepton_tvm.db import Winner
from lepton_tvm.measure import Estimate, Rounds, speedup_ci
from lepton_tvm.measure.loaded_artifacts import ArtifactPlace
from lepton_tvm.measure.timing_inputs import random_inputs
from lepton_tvm.model import TensorInfo
from lepton_tvm.tuning.search import TaskState
from lepton_tvm.tuning.space import ZERO_TRIAL, Point
from lepton_tvm.tuning.trials import TrialLoop

__all__ = ["Compile", "Finalist", "alone", "finalists", "in_model", "winner_of"]

# So many candidates of a kernel go to the last round, if they looked this much faster.
_MOST = 4
_LOOKED_FASTER = 1.005
# A candidate wins only if it is faster by this much with 95 % confidence.
_SURELY_FASTER = 1.005
# Seconds for which a candidate and the zero-trial kernel are run in turns where they run alone.
_ALONE_S = 0.4
_ROUNDS = Rounds(least=45, most=600, budget_s=6.0, warmup_s=0.0)

#: Compiles the model with the decisions of tasks, by hash, into a file.
Compile = Callable[[Mapping[str, Mapping[str, int]], Path], CompiledArtifact]
#: The points of each task that may win, by hash, the most promising first.
Candidates = Mapping[str, Sequence[Point]]


@dataclass(frozen=True)
class Finalist:
    """A candidate and how many times faster than the zero-trial kernel it was."""

    point: Point
    speedup: Estimate


def finalists(loop: TrialLoop) -> dict[str, list[Point]]:
    """The candidates of each task that looked faster; trials have checked their numbers."""
    return {key: _best(state) for key, state in loop.search.states.items()}


def in_model(
    loop: TrialLoop,
    candidates: Candidates,
    place: ArtifactPlace,
    zero: CompiledArtifact,
    compile_with: Compile,
    folder: Path,
) -> dict[str, Finalist]:
    """The candidate of each task that is fastest inside the model, where one is surely faster.

    One artifact holds the first candidates of all tasks, the next one the second ones, and so on;
    they run in turns with the zero-trial one on `place`, and every kernel is timed. `folder` takes
    the artifacts.
    """
    paths, held = {zero.sha256: zero.path}, {}
    for rank in range(max(map(len, candidates.values()), default=0)):
        points = {key: ranked[rank] for key, ranked in candidates.items() if rank < len(ranked)}
        decisions = {key: point.decisions for key, point in points.items()}
        made = compile_with(decisions, folder / f"finalists-{rank}.so")
        paths[made.sha256], held[made.sha256] = made.path, points
    if not held:
        return {}
    described = place.open(paths, loop.threads)[zero.sha256]["inputs"]
    inputs = random_inputs([TensorInfo.from_json(t) for t in described], 0)
    taken = place.time_kernels(list(paths), inputs, _ROUNDS)
    times = {sha256: _by_task(loop, rows) for sha256, rows in taken.items()}
    return _fastest(
        (key, Finalist(point, speedup_ci(times[zero.sha256][key], times[sha256][key])))
        for sha256, points in held.items()
        for key, point in points.items()
    )


def alone(loop: TrialLoop, candidates: Candidates) -> dict[str, Finalist]:
    """The candidate of each task that is fastest by itself, where one is surely faster.

    Those whose numbers differ from the zero-trial kernel's are out.
    """
    states = loop.search.states
    pairs = [(states[key].task, p) for key, points in candidates.items() for p in points]
    speedups = loop.time_again(pairs, _ALONE_S)
    return _fastest(
        (task.hash, Finalist(point, speedups[task.hash, point.text]))
        for task, point in pairs
        if (task.hash, point.text) in speedups
    )


def winner_of(loop: TrialLoop, key: str, finalist: Finalist | None) -> Winner:
    """The verdict on a task: a finalist, or that nothing is to replace the zero-trial schedule."""
    text = finalist.point.text if finalist else ZERO_TRIAL
    tried = loop.search.states[key].records.get(text)
    return Winner(
        key=loop.keys[key],
        trial_id=tried.trial_id if tried else None,
        candidate=text,
        decisions=dict(finalist.point.decisions) if finalist else {},
        ratio=finalist.speedup.value if finalist else 1.0,
        ci95=(finalist.speedup.low, finalist.speedup.high) if finalist else (1.0, 1.0),
        job_id=loop.job_id,
    )


def _best(state: TaskState) -> list[Point]:
    ranked = sorted(state.records.values(), key=lambda r: -r.speedup)
    texts = [r.text for r in ranked if r.text != ZERO_TRIAL and r.speedup > _LOOKED_FASTER]
    points = [state.space.from_text(text) for text in texts[:_MOST]]
    return [p for p in points if p is not None]


def _by_task(loop: TrialLoop, rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Seconds of each task in one run, all its calls together, for each row of kernels' times."""
    seconds = np.asarray(rows, np.float64)
    tasks = np.array(loop.tasks.sequence)
    return {key: list(seconds[:, tasks == key].sum(axis=1)) for key in loop.keys}


def _fastest(timed: Iterable[tuple[str, Finalist]]) -> dict[str, Finalist]:
    best: dict[str, Finalist] = {}
    for key, finalist in timed:
        if finalist.speedup.low <= _SURELY_FASTER:
            continue
        if key not in best or finalist.speedup.value > best[key].speedup.value:
            best[key] = finalist
    return best
