"""The tuning-log database: models, artifacts, trials, measurements. Imports no compiler."""

from lepton_tvm.db.database import Database, open_database
from lepton_tvm.db.records import (
    Artifact,
    Evaluation,
    Finished,
    Job,
    Measurement,
    ModelRecord,
    Trial,
    TrialKey,
    Winner,
    candidate_text,
)
from lepton_tvm.db.tuning_log import TuningLog

__all__ = [
    "Artifact",
    "Database",
    "Evaluation",
    "Finished",
    "Job",
    "Measurement",
    "ModelRecord",
    "Trial",
    "TrialKey",
    "TuningLog",
    "Winner",
    "candidate_text",
    "open_database",
]
