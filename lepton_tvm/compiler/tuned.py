"""What a tuning record is valid for: the parts of its key, and the look-up of what was tuned."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

from lepton_tvm.artifact.manifest import versions
from lepton_tvm.compiler.schedule_version import group_of, schedule_version, schedule_versions
from lepton_tvm.db import Database, TrialKey
from lepton_tvm.measure import this_machine
from lepton_tvm.targets import Target

if TYPE_CHECKING:
    from lepton_tvm.compiler.tuned_plans import Tuned  # `db why` needs keys and no compiler

__all__ = ["family_version", "trial_key", "tuned_by"]


def trial_key(task: str, kernel: str, target: Target, hardware: str, threads: int = 1) -> TrialKey:
    """The key of the records of the kernel of hash `task`, called `kernel` in its model.

    The name says of which group the kernel is, and so which code it depends on. `hardware` is the
    fingerprint of the machine that the times are valid for. Cores and threads stand in the target's
    part: templates look at the one, times depend on the other.
    """
    return TrialKey(
        workload_hash=task,
        target=f"{target} cores={target.cores} threads={threads}",
        hardware=hardware,
        tvm_version=versions()["tvm"] or "unknown",
        schedule_version=schedule_version(target.family, group_of(kernel)),
    )


def family_version(family: str) -> str:
    """One version for all groups of kernels of a family: what a cost model was trained on."""
    text = "".join(schedule_versions(family).values())
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def tuned_by(
    database: Database, target: Target, *, hardware: str | None = None, threads: int = 1
) -> Tuned:
    """The decisions of the winners in `database` for exactly this target, machine and versions.

    `hardware` is a machine's fingerprint; default: this machine's.
    """
    machine = hardware or this_machine().fingerprint_for(target.family)
    current = schedule_versions(target.family).values()

    def decisions(task: str) -> dict[str, int] | None:
        # a hash belongs to one group, so its records can only have that group's version
        key = trial_key(task, "", target, machine, threads)
        keys = [dataclasses.replace(key, schedule_version=version) for version in current]
        found = [winner.decisions for winner in database.tuning.winners(keys).values()]
        return next((dict(decisions) for decisions in found if decisions), None)

    return decisions
