"""Alembic's entry: runs the steps on the connection that `schema.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from lepton_tvm.db.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
context.run_migrations()
