"""What a search comes to: winners, the tuned artifact, and its comparison with zero trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from lepton_tvm.compiler.compile import CompiledArtifact, compile
from lepton_tvm.db import Winner
from lepton_tvm.db.records import now
from lepton_tvm.measure import Estimate
from lepton_tvm.measure.loaded_artifacts import ArtifactPlace
from lepton_tvm.tuning.winners import Compile, alone, finalists, in_model, winner_of
from lepton_tvm.tuning.model_tuning import SearchRun
from lepton_tvm.tuning.search import TaskState
from lepton_tvm.tuning.tune_result import TuneResult, task_result
from lepton_tvm.tuning.whole_model import SideBySide

__all__ = ["finish"]


def finish(
    run: SearchRun,
    stopped: str,
    output: str | Path | None,
    variant: str,
    place: ArtifactPlace,
    notes: list[str],
) -> TuneResult:
    """Choose winners, compile with them, and compare the model with its zero-trial self on `place`.

    Where the tuned one is slower, zero-trial schedules take the winners' place.
    """
    run.say("confirming")
    zero = compile(
        run.model, target=run.target, db=run.database, winograd=run.winograd,
        variant=f"{variant}, zero trials", tuned=False,
    )  # fmt: skip
    winners = _winners(run, place, zero)
    run.say("compiling")
    made = _compile(run, output, variant)
    times: tuple[Estimate, Estimate, Estimate] | None = None
    if any(w.decisions for w in winners.values()):
        run.say("comparing")
        pair = SideBySide(run.database, place, zero, made, run.threads, run.seed)
        wrong = pair.difference()
        times = None if wrong else pair.time()
        if told := _why_not(wrong, times):
            notes.append(f"{told}, so the zero-trial schedules stay")
            winners = {key: winner_of(run.loop, key, None) for key in winners}
            run.database.tuning.add_winners(list(winners.values()))
            made, times = _compile(run, output, variant), None
    else:
        notes.append("no kernel has a schedule that is measurably faster: nothing was changed")
    states = run.loop.search.states
    notes += _untimed(states.values())
    return TuneResult(
        model=run.model.name,
        variant=variant,
        target=str(run.target),
        machine=place.machine.to_json(),
        db=run.database.url,
        threads=run.threads,
        trials=sum(len(s.records) for s in states.values()),
        new_trials=run.new,
        failed=run.failed(),
        seconds=run.elapsed(),
        search_s=run.search_s,
        stopped=stopped,
        artifact=made.path,
        sha256=made.sha256,
        zero_ms=times[0].scaled(1e3) if times else None,
        tuned_ms=times[1].scaled(1e3) if times else None,
        speedup=times[2] if times else None,
        kernels=tuple(task_result(state, winners.get(key)) for key, state in states.items()),
        notes=tuple(notes),
    )


def _untimed(states: Iterable[TaskState]) -> list[str]:
    """Notes on kernels of which there is nothing to compare candidates with."""
    notes = []
    untimed = [s for s in states if s.zero_s is None]
    if names := [s.task.name for s in untimed if s.records]:
        told = ", ".join(names)
        notes.append(f"not tuned, since their zero-trial schedules could not be timed: {told}")
    if names := [s.task.name for s in untimed if not s.records]:
        notes.append(
            f"{len(names)} kernels have no trials yet: run the same command again to go on"
        )
    return notes


def _why_not(wrong: str | None, times: tuple[Estimate, Estimate, Estimate] | None) -> str | None:
    """Why the tuned model may not replace the zero-trial one."""
    if wrong is not None:
        return f"the tuned kernels changed what the whole model computes ({wrong})"
    if times is not None and times[2].high < 1.0:
        return f"the tuned kernels made the whole model slower ({times[2].value:.3f}x)"
    return None


def _winners(run: SearchRun, place: ArtifactPlace, zero: CompiledArtifact) -> dict[str, Winner]:
    """One winner for each task, by hash, stored; those that are stored where no trial is newer."""
    log = run.database.tuning
    known = log.winners(list(run.keys.values()))
    since = min((w.created_at for w in known.values()), default="")
    if len(known) == len(run.keys) and not log.newer_trials(list(run.keys.values()), since):
        return {key.workload_hash: winner for key, winner in known.items()}
    judged_at = now()  # trials that others finish from here on are for the next run
    run.loop.refresh()
    found = finalists(run.loop)
    if run.target.family == "cuda":
        best = alone(run.loop, found)
    else:
        best = in_model(run.loop, found, place, zero, _compiler(run), run.folder)
    winners = {
        key: replace(winner_of(run.loop, key, best.get(key)), created_at=judged_at)
        for key, state in run.loop.search.states.items()
        if state.zero_s is not None
    }
    log.add_winners(list(winners.values()))
    return winners


def _compiler(run: SearchRun) -> Compile:
    def compile_with(decisions: Mapping[str, Mapping[str, int]], output: Path) -> CompiledArtifact:
        return compile(
            run.model, target=run.target, db=False, output=output, winograd=run.winograd,
            tuned=decisions.get, threads=run.threads,
        )  # fmt: skip

    return compile_with


def _compile(run: SearchRun, output: str | Path | None, variant: str) -> CompiledArtifact:
    return compile(
        run.model, target=run.target, db=run.database, output=output, variant=variant,
        winograd=run.winograd, hardware=run.hardware, threads=run.threads,
    )  # fmt: skip
