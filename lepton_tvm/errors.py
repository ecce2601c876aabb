"""Every error a user can meet: each is also a builtin, and knows the exit code of the CLI."""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArtifactError",
    "CompileError",
    "DatabaseError",
    "DatabaseInputError",
    "DeviceError",
    "InputError",
    "LeptonError",
    "ModelError",
    "RequirementError",
    "TargetError",
    "TrialError",
]


class LeptonError(Exception):
    """Root of all errors of this package: the work failed (exit code 1)."""

    exit_code = 1


class InputError(LeptonError, ValueError):
    """An argument, a data file or an option is not usable (exit code 2)."""

    exit_code = 2


class ModelError(InputError):
    """A model file cannot be read, checked or imported."""


class TargetError(InputError):
    """A target is not known, or this machine cannot run what was built for it."""


class ArtifactError(InputError):
    """A compiled file is damaged, is not ours, or does not match its recorded hash."""


class DatabaseError(LeptonError, RuntimeError):
    """The tuning-log database cannot be read or written."""


class DatabaseInputError(DatabaseError, InputError):
    """The database that was named cannot be used: not there, another program's, damaged, newer."""


class DeviceError(LeptonError, RuntimeError):
    """A device of the farm, or its tracker, cannot be reached or did not do what it was asked."""


class CompileError(LeptonError, RuntimeError):
    """A graph could not be lowered, scheduled or built; a fault of ours, not of the input."""


class TrialError(LeptonError, RuntimeError):
    """No candidate kernel can be built or run here at all, whatever the candidate."""


class RequirementError(LeptonError, RuntimeError):
    """A stated requirement (accuracy, speed) was measured and is not met (exit code 3).

    `comparison` holds what was measured, where that is a comparison of stored variants.
    """

    exit_code = 3

    def __init__(self, message: str, comparison: Any = None) -> None:
        super().__init__(message)
        self.comparison = comparison
