"""Measurements and evaluations as records, inside a transaction that the caller holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from lepton_tvm.db.records import Evaluation, Measurement
from lepton_tvm.db.row_records import columns
from lepton_tvm.db.tables import EvaluationRow, MeasurementRow

__all__ = ["add_results", "find_evaluations", "find_measurements"]


def add_results(
    session: Session, measurements: Sequence[Measurement], evaluations: Sequence[Evaluation]
) -> None:
    """Store the finished records of one run."""
    for record in measurements:
        session.merge(MeasurementRow(**record.to_json()))
    for evaluation in evaluations:
        session.merge(EvaluationRow(**evaluation.to_json()))


def find_measurements(
    session: Session, artifact_sha256: str | None, run_id: str | None
) -> list[Measurement]:
    """Measurements, oldest first, of one artifact or one run or all."""
    return [Measurement(**v) for v in _found(session, MeasurementRow, artifact_sha256, run_id)]


def find_evaluations(
    session: Session, artifact_sha256: str | None, run_id: str | None
) -> list[Evaluation]:
    """Evaluations, oldest first, of one artifact or one run or all."""
    return [Evaluation(**v) for v in _found(session, EvaluationRow, artifact_sha256, run_id)]


def _found(
    session: Session, table: Any, artifact_sha256: str | None, run_id: str | None
) -> list[dict[str, Any]]:
    wanted = sa.select(table).order_by(table.created_at)
    if artifact_sha256 is not None:
        wanted = wanted.where(table.artifact_sha256 == artifact_sha256)
    if run_id is not None:
        wanted = wanted.where(table.run_id == run_id)
    return [columns(row) for row in session.scalars(wanted)]
