"""What a tuning record is valid for: the parts of its key, and the version of the schedules."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_tvm.artifact.manifest import versions
from lepton_tvm.db import Database, TrialKey
from lepton_tvm.measure import this_machine
from lepton_tvm.targets import Target

if TYPE_CHECKING:
    from lepton_tvm.pipeline import Tuned  # `db why` needs keys and no compiler

__all__ = ["schedule_version", "trial_key", "tuned_by"]

_PACKAGE = Path(__file__).resolve().parents[1]
# What decisions are lowered to: other tiles, packed weights, and what an ISA has.
_KERNELS = ("ir/kernels", "targets")
_HELPERS = ("ir/bfloat16.py", "ir/tir_rewrite.py")
# What is done to a loop nest after its schedule.
_LOWERING = (
    "pipeline.py",
    "passes/expand_math.py",
    "passes/masked_vectors.py",
    "passes/round_once.py",
    "passes/saturating_narrow.py",
    "passes/stack_buffers.py",
)
_DEVICE_LOWERING = ("device_build.py", "artifact/nvrtc.py", "passes/fused_sums.py")


def trial_key(task: str, target: Target, hardware: str, threads: int = 1) -> TrialKey:
    """The key of the records of the kernel of hash `task`.

    `hardware` is the fingerprint of the machine that the times are valid for. Cores and threads
    stand in the target's part: templates look at the one, times depend on the other.
    """
    return TrialKey(
        workload_hash=task,
        target=f"{target} cores={target.cores} threads={threads}",
        hardware=hardware,
        tvm_version=versions()["tvm"] or "unknown",
        schedule_version=schedule_version(target.family),
    )


@functools.cache
def schedule_version(family: str) -> str:
    """A hash of the code that turns decisions into machine code, for one family of targets."""
    folders = [_PACKAGE / "schedules" / family]
    if family != "cuda":
        folders.append(_PACKAGE / "schedules" / "cpu")
    files = [*(_PACKAGE / "schedules").glob("*.py")]
    for folder in folders:
        files += folder.glob("**/*.py")
    for name in _KERNELS:
        files += (_PACKAGE / name).glob("*.py")
    files += [_PACKAGE / n for n in _HELPERS]
    files += [_PACKAGE / n for n in (_DEVICE_LOWERING if family == "cuda" else _LOWERING)]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def tuned_by(
    database: Database, target: Target, *, hardware: str | None = None, threads: int = 1
) -> Tuned:
    """The decisions of the winners in `database` for exactly this target, machine and versions.

    `hardware` is a machine's fingerprint; default: this machine's.
    """
    machine = hardware or this_machine().fingerprint_for(target.family)

    def decisions(task: str) -> dict[str, int] | None:
        winner = database.tuning.winner(trial_key(task, target, machine, threads))
        return dict(winner.decisions) if winner is not None and winner.decisions else None

    return decisions
