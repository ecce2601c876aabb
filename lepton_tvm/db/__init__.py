"""The tuning-log database: models, artifacts, trials, measurements. Imports no compiler."""

from lepton_tvm.db.database import Database, open_database
from lepton_tvm.db.records import (
    Artifact,
    Evaluation,
    Job,
    Measurement,
    ModelRecord,
    Trial,
    TrialKey,
)
from lepton_tvm.db.tuning import TuningLog

__all__ = [
    "Artifact",
    "Database",
    "Evaluation",
    "Job",
    "Measurement",
    "ModelRecord",
    "Trial",
    "TrialKey",
    "TuningLog",
    "open_database",
]
