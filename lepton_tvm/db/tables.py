"""The tables, as SQLAlchemy sees them; migrations/ holds how older files get here.

Keys are text that any two databases agree on (content hashes, random ids), so that records can be
exchanged. Times are UTC in ISO 8601. Rows are added and read, never edited, but for the state of a
job that is still running; claims and cost models come and go.
"""

from __future__ import annotations

import zlib
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

__all__ = [
    "ArtifactRow",
    "Base",
    "ClaimRow",
    "CompressedText",
    "CostModelRow",
    "EvaluationRow",
    "JobRow",
    "MeasurementRow",
    "ModelRow",
    "SeedRow",
    "TaskRow",
    "TrialRow",
    "TuningKeyRow",
    "WinnerRow",
    "WorkloadRow",
]

_SHA = 64
_ID = 32
_TIME = 32
#: Bytes of a candidate's text; it is part of an index.
MAX_CANDIDATE = 1024
_MAX_TEXT = 64 << 20


class CompressedText(TypeDecorator[str]):
    """Text that is stored compressed (zlib); at most 64 MiB of it are ever unpacked."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        """What goes into the database."""
        return None if value is None else zlib.compress(value.encode())

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        """What comes out of it. Raises ValueError for what is not such a text."""
        if value is None:
            return None
        unpack = zlib.decompressobj()
        try:
            text = unpack.decompress(value, _MAX_TEXT)
        except zlib.error as e:
            raise ValueError(f"a compressed text is damaged: {e}") from e
        if unpack.unconsumed_tail:
            raise ValueError(f"a compressed text is longer than {_MAX_TEXT >> 20} MiB")
        return text.decode()


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
    ir: Mapped[str] = mapped_column(CompressedText)
    created_at: Mapped[str] = mapped_column(String(_TIME))


class TaskRow(Base):
    """A kernel of a model as it is lowered for a target; `calls` a run of the model makes."""

    __tablename__ = "tasks"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    variant: Mapped[str] = mapped_column(String(255), primary_key=True)
    target: Mapped[str] = mapped_column(String(255), primary_key=True)
    workload_hash: Mapped[str] = mapped_column(
        ForeignKey("workloads.hash"), primary_key=True, index=True
    )
    calls: Mapped[int] = mapped_column(Integer)


class TuningKeyRow(Base):
    """What tuning records are valid for, part by part; `id` hashes the parts."""

    __tablename__ = "tuning_keys"

    id: Mapped[str] = mapped_column(String(_ID), primary_key=True)
    workload_hash: Mapped[str] = mapped_column(ForeignKey("workloads.hash"), index=True)
    target: Mapped[str] = mapped_column(String(255))
    hardware: Mapped[str] = mapped_column(String(_SHA))
    tvm_version: Mapped[str] = mapped_column(String(64))
    schedule_version: Mapped[str] = mapped_column(String(64))


class TrialRow(Base):
    """One tried schedule of a workload, also when it failed."""

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("key_id", "candidate", name="uq_trials_candidate"),
        Index("ix_trials_best", "key_id", "state", "median_s"),
    )

    id: Mapped[str] = mapped_column(String(_ID), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("tuning_keys.id"))
    candidate: Mapped[str] = mapped_column(String(MAX_CANDIDATE))
    state: Mapped[str] = mapped_column(String(16))
    median_s: Mapped[float | None] = mapped_column(Float)
    reference_s: Mapped[float | None] = mapped_column(Float)
    decisions: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    variant_hash: Mapped[str | None] = mapped_column(ForeignKey("workloads.hash"), index=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(String(_TIME))
    samples_s: Mapped[list[float]] = mapped_column(JSON)
    trace: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)


class ClaimRow(Base):
    """A candidate that a process has taken to try; `expires` is in seconds since 1970."""

    __tablename__ = "claims"

    key_id: Mapped[str] = mapped_column(ForeignKey("tuning_keys.id"), primary_key=True)
    candidate: Mapped[str] = mapped_column(String(MAX_CANDIDATE), primary_key=True)
    job_id: Mapped[str] = mapped_column(String(_ID), index=True)
    host: Mapped[str] = mapped_column(String(128))
    pid: Mapped[int] = mapped_column(Integer)
    expires: Mapped[float] = mapped_column(Float, index=True)


class WinnerRow(Base):
    """Which candidate a key's kernel is to be built with; the newest row of a key counts."""

    __tablename__ = "winners"
    __table_args__ = (Index("ix_winners_key", "key_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(_ID), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("tuning_keys.id"))
    trial_id: Mapped[str | None] = mapped_column(ForeignKey("trials.id"), index=True)
    candidate: Mapped[str] = mapped_column(String(MAX_CANDIDATE))
    decisions: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    ratio: Mapped[float] = mapped_column(Float)
    ci95_low: Mapped[float] = mapped_column(Float)
    ci95_high: Mapped[float] = mapped_column(Float)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[str] = mapped_column(String(_TIME))


class CostModelRow(Base):
    """A trained cost model, one of a kind for each target and versions; it can be trained again."""

    __tablename__ = "cost_models"

    target: Mapped[str] = mapped_column(String(255), primary_key=True)
    tvm_version: Mapped[str] = mapped_column(String(64), primary_key=True)
    schedule_version: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(64), primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    trials: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[str] = mapped_column(String(_TIME))
