"""Which kernels a model has, and indexes by which unused records are found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("model_id", sa.String(64), sa.ForeignKey("models.id"), primary_key=True),
        sa.Column("variant", sa.String(255), primary_key=True),
        sa.Column("target", sa.String(255), primary_key=True),
        sa.Column(
            "workload_hash",
            sa.String(64),
            sa.ForeignKey("workloads.hash"),
            primary_key=True,
            index=True,
        ),
        sa.Column("calls", sa.Integer(), nullable=False),
    )
    op.create_index("ix_trials_variant_hash", "trials", ["variant_hash"])
    op.create_index("ix_winners_trial_id", "winners", ["trial_id"])


def downgrade() -> None:
    raise NotImplementedError("going back would lose records; export them instead")
