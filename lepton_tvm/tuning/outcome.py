"""What a search comes to: winners, the tuned artifact, and its comparison with zero trials."""

from __future__ import annotations

from pathlib import Path

from lepton_tvm.compiler import CompiledArtifact, compile
from lepton_tvm.db import Winner
from lepton_tvm.measure import Estimate
from lepton_tvm.measure.artifacts import ArtifactPlace
from lepton_tvm.tuning.confirm import confirm, zero_trial_winner
from lepton_tvm.tuning.result import TuneResult, task_result
from lepton_tvm.tuning.run import SearchRun
from lepton_tvm.tuning.whole_model import time_in_turns

__all__ = ["choose_winners", "finish"]


def choose_winners(run: SearchRun) -> dict[str, Winner]:
    """One winner for each task, by hash, stored; where no trial is new, those that are stored."""
    log = run.database.tuning
    known = log.winners(list(run.keys.values()))
    if not run.new and len(known) == len(run.keys):
        return {key.workload_hash: winner for key, winner in known.items()}
    run.say("confirming")
    winners = confirm(run.loop)
    log.add_winners(list(winners.values()))
    return winners


def finish(
    run: SearchRun,
    winners: dict[str, Winner],
    stopped: str,
    output: str | Path | None,
    variant: str,
    place: ArtifactPlace,
    notes: list[str],
) -> TuneResult:
    """Compile with the winners, and compare the whole model with its zero-trial self on `place`.

    Where the tuned one is slower, zero-trial schedules take the winners' place.
    """
    run.say("compiling")
    zero = compile(
        run.model, target=run.target, db=run.database, winograd=run.winograd,
        variant=f"{variant}, zero trials", tuned=False,
    )  # fmt: skip
    made = _compile(run, output, variant)
    times: tuple[Estimate, Estimate, Estimate] | None = None
    if any(w.decisions for w in winners.values()):
        run.say("comparing")
        times = time_in_turns(run.database, place, zero, made, run.threads, seed=run.seed)
        if times[2].high < 1.0:
            notes.append(
                f"the tuned kernels made the whole model slower ({times[2].value:.3f}x), "
                "so the zero-trial schedules stay"
            )
            states = run.loop.search.states
            winners = {key: zero_trial_winner(run.loop, state) for key, state in states.items()}
            run.database.tuning.add_winners(list(winners.values()))
            made, times = _compile(run, output, variant), None
    else:
        notes.append("no kernel has a schedule that is surely faster: nothing was changed")
    states = run.loop.search.states
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


def _compile(run: SearchRun, output: str | Path | None, variant: str) -> CompiledArtifact:
    return compile(
        run.model, target=run.target, db=run.database, output=output, variant=variant,
        winograd=run.winograd, hardware=run.hardware, threads=run.threads,
    )  # fmt: skip
