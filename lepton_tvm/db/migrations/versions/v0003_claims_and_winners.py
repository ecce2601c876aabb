"""Tuning keys of their own, trials by candidate, claims, winners, cost models; IR compressed."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_PARTS = ("workload_hash", "target", "hardware", "tvm_version", "schedule_version")


def upgrade() -> None:
    connection = op.get_bind()
    old = sa.MetaData()
    old.reflect(connection, only=["trials", "workloads"])
    trials = connection.execute(sa.select(_typed(old.tables["trials"]))).mappings().all()
    workloads = connection.execute(sa.select(old.tables["workloads"])).mappings().all()
    op.drop_table("trials")
    op.drop_table("workloads")
    _create()
    _fill(connection, workloads, trials)


def _typed(table: sa.Table) -> sa.Table:
    """The old trials with their JSON columns as JSON, whatever the backend reflects."""
    for name in ("trace", "samples_s"):
        table.c[name].type = sa.JSON()
    return table


def _fill(connection: sa.Connection, workloads: Any, trials: Any) -> None:
    new = sa.MetaData()
    new.reflect(connection, only=["trials", "workloads", "tuning_keys"])
    if workloads:
        rows = [{**w, "ir": zlib.compress(w["ir"].encode())} for w in workloads]
        connection.execute(new.tables["workloads"].insert(), rows)
    keys = {}
    rows = []
    for trial in trials:
        values = dict(trial)
        parts = {name: values.pop(name) for name in _PARTS}
        text = json.dumps([parts[name] for name in _PARTS])
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        keys[key] = {"id": key, **parts}
        # Schema 0002 did not know candidates: each old trial is one of its own.
        rows.append({**values, "key_id": key, "candidate": f"0002:{values['id']}"})
    if trials:
        connection.execute(new.tables["tuning_keys"].insert(), list(keys.values()))
        connection.execute(_typed(new.tables["trials"]).insert(), rows)


def _create() -> None:
    op.create_table(
        "workloads",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("ir", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    op.create_table(
        "tuning_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column(
            "workload_hash",
            sa.String(64),
            sa.ForeignKey("workloads.hash"),
            nullable=False,
            index=True,
        ),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("hardware", sa.String(64), nullable=False),
        sa.Column("tvm_version", sa.String(64), nullable=False),
        sa.Column("schedule_version", sa.String(64), nullable=False),
    )
    op.create_table(
        "trials",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("key_id", sa.String(32), sa.ForeignKey("tuning_keys.id"), nullable=False),
        sa.Column("candidate", sa.String(1024), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("median_s", sa.Float()),
        sa.Column("reference_s", sa.Float()),
        sa.Column("decisions", sa.JSON()),
        sa.Column("variant_hash", sa.String(64), sa.ForeignKey("workloads.hash")),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id")),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("samples_s", sa.JSON(), nullable=False),
        sa.Column("trace", sa.JSON()),
        sa.UniqueConstraint("key_id", "candidate", name="uq_trials_candidate"),
    )
    op.create_index("ix_trials_best", "trials", ["key_id", "state", "median_s"])
    op.create_table(
        "claims",
        sa.Column("key_id", sa.String(32), sa.ForeignKey("tuning_keys.id"), primary_key=True),
        sa.Column("candidate", sa.String(1024), primary_key=True),
        sa.Column("job_id", sa.String(32), nullable=False, index=True),
        sa.Column("host", sa.String(128), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False, index=True),
    )
    op.create_table(
        "winners",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("key_id", sa.String(32), sa.ForeignKey("tuning_keys.id"), nullable=False),
        sa.Column("trial_id", sa.String(32), sa.ForeignKey("trials.id")),
        sa.Column("candidate", sa.String(1024), nullable=False),
        sa.Column("decisions", sa.JSON()),
        sa.Column("ratio", sa.Float(), nullable=False),
        sa.Column("ci95_low", sa.Float(), nullable=False),
        sa.Column("ci95_high", sa.Float(), nullable=False),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id")),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    op.create_index("ix_winners_key", "winners", ["key_id", "created_at"])
    op.create_table(
        "cost_models",
        sa.Column("target", sa.String(255), primary_key=True),
        sa.Column("tvm_version", sa.String(64), primary_key=True),
        sa.Column("schedule_version", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(64), primary_key=True),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("trials", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
    )


def downgrade() -> None:
    raise NotImplementedError("going back would lose records; export them instead")
