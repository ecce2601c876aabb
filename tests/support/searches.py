"""What tests of whole searches share: how they are run, and runners that do not tell the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from lepton_tvm.compiler.fused_kernels import kernel_calls, kernel_hash
from lepton_tvm.compiler.pipeline import fuse
from lepton_tvm.compiler.tuned import trial_key
from lepton_tvm.db import Database, TrialKey
from lepton_tvm.model import Model
from lepton_tvm.targets import Target, parse_target
from lepton_tvm.tuning import TuneResult, tune
from lepton_tvm.tuning.space import ZERO_TRIAL
from lepton_tvm.workers import LocalRunner, RunRequest, RunResult


def run(url: str, model: Model, trials: int, **options: Any) -> TuneResult:
    """A search of so many trials."""
    return tune(model, trials=trials, db=url, **options)


def stored(database: Database) -> list[tuple[str, str]]:
    """Key and candidate of every trial."""
    with database.reading() as reading:
        rows = reading.execute(sa.text("SELECT key_id, candidate FROM trials"))
        return [(str(k), str(c)) for k, c in rows]


def hashes_of(model: Model) -> list[str]:
    """The tasks of a model on this machine, in the order of their first calls."""
    fused = fuse(model.module, parse_target("native")).module
    return list(dict.fromkeys(kernel_hash(fused[name]) for name, _ in kernel_calls(fused)))


def keys_of(model: Model, target: Target, machine: str) -> list[TrialKey]:
    """The keys of the same tasks."""
    fused = fuse(model.module, target).module
    names = {kernel_hash(fused[name]): name for name, _ in reversed(kernel_calls(fused))}
    return [trial_key(h, names[h], target, machine) for h in hashes_of(model)]


class Liar(LocalRunner):
    """Says that all candidates are ten times faster, and that their numbers are wrong."""

    state = "wrong"

    def run(self, requests: Sequence[RunRequest]) -> Iterator[RunResult]:
        for result in super().run(requests):
            zero = result.id.endswith(f":{ZERO_TRIAL}")
            fast = tuple(s / 10 for s in result.samples_s)
            yield (
                result
                if zero
                else dataclasses.replace(
                    result, state=self.state, samples_s=fast, error="outputs differ by 3"
                )
            )


class Flatterer(Liar):
    """Says that all candidates are ten times faster, and right."""

    state = "ok"
