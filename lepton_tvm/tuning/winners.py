"""Who may replace a zero-trial schedule: the last round of a search.

Trials are first impressions, of kernels that run alone. The best candidates are timed where they
are to run, inside the whole model, whose caches and memory treat a kernel otherwise than a loop
that runs nothing else. A GPU's kernels are timed alone again, for longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lepton_tvm.compiler.compile import CompiledArtifact, compile
from lepton_tvm.db import Winner
from lepton_tvm.db.records import now
from lepton_tvm.measure import Estimate, Rounds, speedup_ci
from lepton_tvm.measure.loaded_artifacts import ArtifactPlace
from lepton_tvm.measure.timing_inputs import random_inputs
from lepton_tvm.model import TensorInfo
from lepton_tvm.tuning.model_tuning import ModelTuning
from lepton_tvm.tuning.space import ZERO_TRIAL, Candidate
from lepton_tvm.tuning.task_state import TaskState

__all__ = ["choose_winners", "no_winner"]

# So many candidates of a kernel go to the last round, if they looked this much faster.
_MOST = 4
_LOOKED_FASTER = 1.005
# A candidate wins only if it is faster by this much with 95 % confidence.
_SURELY_FASTER = 1.005
# Seconds for which a candidate and the zero-trial kernel are run in turns where they run alone.
_ALONE_S = 0.4
_ROUNDS = Rounds(least=45, most=600, budget_s=6.0, warmup_s=0.0)

#: The candidates of each task that may win, by hash, the most promising first.
Promising = Mapping[str, Sequence[Candidate]]


@dataclass(frozen=True)
class Confirmed:
    """A candidate and how many times faster than the zero-trial kernel it was when timed again."""

    candidate: Candidate
    speedup: Estimate


def choose_winners(
    tuning: ModelTuning, place: ArtifactPlace, zero: CompiledArtifact
) -> dict[str, Winner]:
    """One winner for each task, by hash, stored; those that are stored where no trial is newer.

    `zero` is the model with zero-trial schedules, `place` where it runs.
    """
    log, keys = tuning.shop.database.tuning, list(tuning.keys.values())
    known = log.winners(keys)
    since = min((w.created_at for w in known.values()), default="")
    if len(known) == len(keys) and not log.newer_trials(keys, since):
        return {key.workload_hash: winner for key, winner in known.items()}
    judged_at = now()  # trials that others finish from here on are for the next run
    tuning.trials.refresh()
    found = promising(tuning)
    if tuning.shop.target.on_gpu:
        best = alone(tuning, found)
    else:
        best = in_model(tuning, found, place, zero)
    winners = {
        key: replace(_winner(tuning, key, best.get(key)), created_at=judged_at)
        for key, state in tuning.states.items()
        if state.zero_s is not None
    }
    log.add_winners(list(winners.values()))
    return winners


def no_winner(tuning: ModelTuning, key: str) -> Winner:
    """The verdict that nothing is to replace the zero-trial schedule of a task."""
    return _winner(tuning, key, None)


def promising(tuning: ModelTuning) -> dict[str, list[Candidate]]:
    """The candidates of each task that looked faster; trials have checked their numbers."""
    return {key: _best(state) for key, state in tuning.states.items()}


def in_model(
    tuning: ModelTuning, candidates: Promising, place: ArtifactPlace, zero: CompiledArtifact
) -> dict[str, Confirmed]:
    """The candidate of each task that is fastest inside the model, where one is surely faster.

    One artifact holds the first candidates of all tasks, the next one the second ones, and so on;
    they run in turns with the zero-trial one on `place`, and every kernel is timed.
    """
    paths, held = {zero.sha256: zero.path}, {}
    for rank in range(max(map(len, candidates.values()), default=0)):
        ranks = {key: ranked[rank] for key, ranked in candidates.items() if rank < len(ranked)}
        decisions = {key: candidate.decisions for key, candidate in ranks.items()}
        made = _compiled(tuning, decisions, tuning.shop.folder / f"promising-{rank}.so")
        paths[made.sha256], held[made.sha256] = made.path, ranks
    if not held:
        return {}
    described = place.open(paths, tuning.options.threads)[zero.sha256]["inputs"]
    inputs = random_inputs([TensorInfo.from_json(t) for t in described], 0)
    taken = place.time_kernels(list(paths), inputs, _ROUNDS)
    times = {sha256: _by_task(tuning, rows) for sha256, rows in taken.items()}
    return _fastest(
        (key, Confirmed(candidate, speedup_ci(times[zero.sha256][key], times[sha256][key])))
        for sha256, ranks in held.items()
        for key, candidate in ranks.items()
    )


def alone(tuning: ModelTuning, candidates: Promising) -> dict[str, Confirmed]:
    """The candidate of each task that is fastest by itself, where one is surely faster.

    Those whose numbers differ from the zero-trial kernel's are out.
    """
    pairs = [(tuning.states[key].task, c) for key, found in candidates.items() for c in found]
    speedups = tuning.trials.time_again(pairs, _ALONE_S)
    return _fastest(
        (task.hash, Confirmed(candidate, speedups[task.hash, candidate.text]))
        for task, candidate in pairs
        if (task.hash, candidate.text) in speedups
    )


def _winner(tuning: ModelTuning, key: str, best: Confirmed | None) -> Winner:
    """The verdict on a task: a candidate, or the zero-trial schedule where there is none."""
    text = best.candidate.text if best else ZERO_TRIAL
    tried = tuning.states[key].trials.get(text)
    return Winner(
        key=tuning.keys[key],
        trial_id=tried.trial_id if tried else None,
        candidate=text,
        decisions=dict(best.candidate.decisions) if best else {},
        ratio=best.speedup.value if best else 1.0,
        ci95=(best.speedup.low, best.speedup.high) if best else (1.0, 1.0),
        job_id=tuning.shop.job_id,
    )


def _best(state: TaskState) -> list[Candidate]:
    ranked = sorted(state.trials.values(), key=lambda t: -t.speedup)
    faster = [t for t in ranked if t.candidate != ZERO_TRIAL and t.speedup > _LOOKED_FASTER]
    found = [state.space.from_text(trial.candidate) for trial in faster[:_MOST]]
    return [c for c in found if c is not None]


def _compiled(
    tuning: ModelTuning, decisions: Mapping[str, Mapping[str, int]], output: Path
) -> CompiledArtifact:
    """The model with the decisions of tasks, by hash."""
    return compile(
        tuning.model, target=tuning.shop.target, db=False, output=output,
        winograd=tuning.options.winograd, tuned=decisions.get, threads=tuning.options.threads,
    )  # fmt: skip


def _by_task(tuning: ModelTuning, rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Seconds of each task in one run, all its calls together, for each row of kernels' times."""
    seconds = np.asarray(rows, np.float64)
    tasks = np.array(tuning.tasks.sequence)
    return {key: list(seconds[:, tasks == key].sum(axis=1)) for key in tuning.keys}


def _fastest(timed: Iterable[tuple[str, Confirmed]]) -> dict[str, Confirmed]:
    best: dict[str, Confirmed] = {}
    for key, found in timed:
        if found.speedup.low <= _SURELY_FASTER:
            continue
        if key not in best or found.speedup.value > best[key].speedup.value:
            best[key] = found
    return best
