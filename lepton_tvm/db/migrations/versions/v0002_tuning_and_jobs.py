"""Tuning workloads and trials, jobs with their state, and the seeds of their random choices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(64), nullable=False, index=True),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("host", sa.String(128), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.String(32), nullable=False),
        sa.Column("finished_at", sa.String(32)),
    )
    op.create_table(
        "seeds",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("value", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "workloads",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("ir", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    op.create_table(
        "trials",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("workload_hash", sa.String(64), sa.ForeignKey("workloads.hash"), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("hardware", sa.String(64), nullable=False),
        sa.Column("tvm_version", sa.String(64), nullable=False),
        sa.Column("schedule_version", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id")),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("trace", sa.JSON(), nullable=False),
        sa.Column("samples_s", sa.JSON(), nullable=False),
        sa.Column("median_s", sa.Float()),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    op.create_index(
        "ix_trials_key",
        "trials",
        ["workload_hash", "target", "hardware", "tvm_version", "schedule_version"],
    )


def downgrade() -> None:
    raise NotImplementedError("going back would lose records; export them instead")
