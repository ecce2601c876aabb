"""The tables, as SQLAlchemy sees them; migrations/ holds how older files get here.

Keys are text that any two databases agree on (content hashes, random ids), so that records can be
exchanged. Times are UTC in ISO 8601. Rows are added and read, never edited, but for the state of a
job that is still running.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = [
    "ArtifactRow",
    "Base",
    "EvaluationRow",
    "JobRow",
    "MeasurementRow",
    "ModelRow",
    "SeedRow",
    "TrialRow",
    "WorkloadRow",
]

_SHA = 64
_ID = 32
_TIME = 32


class Base(DeclarativeBase):
    """The root of all tables."""


class ModelRow(Base):
    """A source model with fixed input shapes; `id` hashes `source_sha256` and `inputs`."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(String(_SHA), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), index=True)
    source_sha256: Mapped[str] = mapped_column(String(_SHA), index=True)
    inputs: Mapped[list[Any]] = mapped_column(JSON)
    outputs: Mapped[list[Any]] = mapped_column(JSON)
    created_at: Mapped[str] = mapped_column(String(_TIME))


class ArtifactRow(Base):
    """A compiled file; the file itself lies in the artifacts folder under its `sha256`."""

    __tablename__ = "artifacts"

    sha256: Mapped[str] = mapped_column(String(_SHA), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    variant: Mapped[str] = mapped_column(String(255))
    precision: Mapped[str] = mapped_column(String(32))
    target: Mapped[str] = mapped_column(String(255), index=True)
    arch: Mapped[str] = mapped_column(String(32))
    isa: Mapped[str] = mapped_column(String(64))
    tvm_version: Mapped[str | None] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    macs: Mapped[int | None] = mapped_column(BigInteger)
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[str] = mapped_column(String(_TIME))


class MeasurementRow(Base):
    """Raw latency samples of one artifact; rows with one `run_id` were taken in turns."""

    __tablename__ = "measurements"

    id: Mapped[str] = mapped_column(String(_ID), primary_key=True)
    run_id: Mapped[str] = mapped_column(String(_ID), index=True)
    artifact_sha256: Mapped[str] = mapped_column(ForeignKey("artifacts.sha256"), index=True)
    hardware: Mapped[str] = mapped_column(String(_SHA), index=True)
    machine: Mapped[dict[str, Any]] = mapped_column(JSON)
    threads: Mapped[int] = mapped_column(Integer)
    median_s: Mapped[float] = mapped_column(Float)
    samples_s: Mapped[list[float]] = mapped_column(JSON)
    created_at: Mapped[str] = mapped_column(String(_TIME))


class EvaluationRow(Base):
    """What an artifact computes, against labels and against its float baseline."""

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(String(_ID), primary_key=True)
    run_id: Mapped[str] = mapped_column(String(_ID), index=True)
    artifact_sha256: Mapped[str] = mapped_column(ForeignKey("artifacts.sha256"), index=True)
    baseline_sha256: Mapped[str | None] = mapped_column(ForeignKey("artifacts.sha256"))
    data_sha256: Mapped[str] = mapped_column(String(_SHA))
    n: Mapped[int] = mapped_column(Integer)
    metric: Mapped[str | None] = mapped_column(String(64))
    value: Mapped[float | None] = mapped_column(Float)
    agreement: Mapped[float | None] = mapped_column(Float)
    sqnr_db: Mapped[float | None] = mapped_column(Float)
    created_at: Mapped[str] = mapped_column(String(_TIME))


class JobRow(Base):
    """A piece of work and how far it got: running, then done, failed or interrupted."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(_ID), primary_key=True)
    kind: Mapped[str] = mapped_column(String(64), index=True)
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16), index=True)
    progress: Mapped[dict[str, Any]] = mapped_column(JSON)
    error: Mapped[str | None] = mapped_column(Text)
    host: Mapped[str] = mapped_column(String(128))
    pid: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[str] = mapped_column(String(_TIME))
    finished_at: Mapped[str | None] = mapped_column(String(_TIME))


class SeedRow(Base):
    """The seed of one random choice of a job."""

    __tablename__ = "seeds"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


class WorkloadRow(Base):
    """A kernel to tune: its structural hash and its IR as text."""

    __tablename__ = "workloads"

    hash: Mapped[str] = mapped_column(String(_SHA), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    ir: Mapped[str] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(String(_TIME))


class TrialRow(Base):
    """One tried schedule of a workload, also when it failed."""

    __tablename__ = "trials"
    __table_args__ = (
        Index(
            "ix_trials_key",
            "workload_hash",
            "target",
            "hardware",
            "tvm_version",
            "schedule_version",
        ),
    )

    id: Mapped[str] = mapped_column(String(_ID), primary_key=True)
    workload_hash: Mapped[str] = mapped_column(ForeignKey("workloads.hash"))
    target: Mapped[str] = mapped_column(String(255))
    hardware: Mapped[str] = mapped_column(String(_SHA))
    tvm_version: Mapped[str] = mapped_column(String(64))
    schedule_version: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    state: Mapped[str] = mapped_column(String(16))
    trace: Mapped[Any] = mapped_column(JSON)
    samples_s: Mapped[list[float]] = mapped_column(JSON)
    median_s: Mapped[float | None] = mapped_column(Float)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(String(_TIME))
