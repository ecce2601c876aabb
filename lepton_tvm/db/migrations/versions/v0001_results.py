"""Models, artifacts, measurements and evaluations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False, index=True),
        sa.Column("source_sha256", sa.String(64), nullable=False, index=True),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("outputs", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    op.create_table(
        "artifacts",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column(
            "model_id", sa.String(64), sa.ForeignKey("models.id"), nullable=False, index=True
        ),
        sa.Column("variant", sa.String(255), nullable=False),
        sa.Column("precision", sa.String(32), nullable=False),
        sa.Column("target", sa.String(255), nullable=False, index=True),
        sa.Column("arch", sa.String(32), nullable=False),
        sa.Column("isa", sa.String(64), nullable=False),
        sa.Column("tvm_version", sa.String(64)),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("macs", sa.BigInteger()),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    op.create_table(
        "measurements",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("run_id", sa.String(32), nullable=False, index=True),
        sa.Column(
            "artifact_sha256",
            sa.String(64),
            sa.ForeignKey("artifacts.sha256"),
            nullable=False,
            index=True,
        ),
        sa.Column("hardware", sa.String(64), nullable=False, index=True),
        sa.Column("machine", sa.JSON(), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("median_s", sa.Float(), nullable=False),
        sa.Column("samples_s", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("run_id", sa.String(32), nullable=False, index=True),
        sa.Column(
            "artifact_sha256",
            sa.String(64),
            sa.ForeignKey("artifacts.sha256"),
            nullable=False,
            index=True,
        ),
        sa.Column("baseline_sha256", sa.String(64), sa.ForeignKey("artifacts.sha256")),
        sa.Column("data_sha256", sa.String(64), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(64)),
        sa.Column("value", sa.Float()),
        sa.Column("agreement", sa.Float()),
        sa.Column("sqnr_db", sa.Float()),
        sa.Column("created_at", sa.String(32), nullable=False),
    )


def downgrade() -> None:
    raise NotImplementedError("going back would lose records; export them instead")
