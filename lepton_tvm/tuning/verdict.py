"""What a search comes to: winners, the tuned artifact, and its comparison with zero trials."""

from __future__ import annotations

from collections.abc import Iterable

from lepton_tvm.compiler.compile import CompiledArtifact, compile
from lepton_tvm.db import Winner
from lepton_tvm.measure import Estimate
from lepton_tvm.measure.loaded_artifacts import ArtifactPlace
from lepton_tvm.tuning.model_tuning import ModelTuning
from lepton_tvm.tuning.progress import Progress
from lepton_tvm.tuning.task_state import TaskState
from lepton_tvm.tuning.tune_result import TuneResult, task_result
from lepton_tvm.tuning.whole_model import SideBySide
from lepton_tvm.tuning.winners import choose_winners, no_winner

__all__ = ["finish"]

# Median seconds with zero trials and tuned, and how many times faster the tuned model is.
Times = tuple[Estimate, Estimate, Estimate]


def finish(
    tuning: ModelTuning, progress: Progress, stopped: str, place: ArtifactPlace, notes: list[str]
) -> TuneResult:
    """Choose winners, compile with them, and compare the model with its zero-trial self on `place`.

    Where the tuned one is slower, zero-trial schedules take the winners' place. `stopped` says why
    the search ended; `notes` are told with the result.
    """
    options, shop = tuning.options, tuning.shop
    progress.say("confirming")
    zero = compile(
        tuning.model, target=shop.target, db=shop.database, winograd=options.winograd,
        variant=f"{options.variant}, zero trials", tuned=False,
    )  # fmt: skip
    winners = choose_winners(tuning, place, zero)
    progress.say("compiling")
    made = _compiled(tuning)
    times = None
    if any(w.decisions for w in winners.values()):
        progress.say("comparing")
        why_not, times = _compared(tuning, place, zero, made)
        if why_not is not None:
            notes.append(f"{why_not}, so the zero-trial schedules stay")
            winners = {key: no_winner(tuning, key) for key in winners}
            shop.database.tuning.add_winners(list(winners.values()))
            made, times = _compiled(tuning), None
    else:
        notes.append("no kernel has a schedule that is measurably faster: nothing was changed")
    notes += _untimed(tuning.states.values())
    return _result(tuning, progress, stopped, place, made, winners, times, notes)


def _compared(
    tuning: ModelTuning, place: ArtifactPlace, zero: CompiledArtifact, tuned: CompiledArtifact
) -> tuple[str | None, Times | None]:
    """Why the tuned model may not replace the zero-trial one, else the times of both."""
    options = tuning.options
    pair = SideBySide(tuning.shop.database, place, zero, tuned, options.threads, options.seed)
    wrong = pair.difference()
    if wrong is not None:
        return f"the tuned kernels changed what the whole model computes ({wrong})", None
    times = pair.time()
    if times[2].high < 1.0:
        return f"the tuned kernels made the whole model slower ({times[2].value:.3f}x)", None
    return None, times


def _result(
    tuning: ModelTuning,
    progress: Progress,
    stopped: str,
    place: ArtifactPlace,
    made: CompiledArtifact,
    winners: dict[str, Winner],
    times: Times | None,
    notes: list[str],
) -> TuneResult:
    options, shop = tuning.options, tuning.shop
    return TuneResult(
        model=tuning.model.name,
        variant=options.variant,
        target=str(shop.target),
        machine=place.machine.to_json(),
        db=shop.database.url,
        threads=options.threads,
        trials=tuning.search.tried(),
        new_trials=progress.new,
        failed=tuning.search.failed(),
        seconds=progress.elapsed(),
        search_s=progress.search_s,
        stopped=stopped,
        artifact=made.path,
        sha256=made.sha256,
        zero_ms=times[0].scaled(1e3) if times else None,
        tuned_ms=times[1].scaled(1e3) if times else None,
        speedup=times[2] if times else None,
        kernels=tuple(task_result(state, winners.get(h)) for h, state in tuning.states.items()),
        notes=tuple(notes),
    )


def _untimed(states: Iterable[TaskState]) -> list[str]:
    """Notes on kernels of which there is nothing to compare candidates with."""
    notes = []
    untimed = [s for s in states if s.zero_s is None]
    if names := [s.task.name for s in untimed if s.trials]:
        told = ", ".join(names)
        notes.append(f"not tuned, since their zero-trial schedules could not be timed: {told}")
    if names := [s.task.name for s in untimed if not s.trials]:
        notes.append(
            f"{len(names)} kernels have no trials yet: run the same command again to go on"
        )
    return notes


def _compiled(tuning: ModelTuning) -> CompiledArtifact:
    """The model with its winners' schedules, stored."""
    options, shop = tuning.options, tuning.shop
    return compile(
        tuning.model, target=shop.target, db=shop.database, output=options.output,
        variant=options.variant, winograd=options.winograd, hardware=shop.hardware,
        threads=options.threads,
    )  # fmt: skip
