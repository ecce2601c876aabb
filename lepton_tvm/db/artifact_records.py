"""Models and artifacts as records, inside a transaction that the caller holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from lepton_tvm.db.records import Artifact, ModelRecord
from lepton_tvm.db.row_records import artifact_row, ensure_model, to_artifact, to_model
from lepton_tvm.db.tables import ArtifactRow, ModelRow

__all__ = ["ensure_artifact", "find_artifacts", "find_models", "with_prefix"]


def find_models(session: Session, query: str | None) -> list[ModelRecord]:
    """All models, or those whose name is `query` or whose id or source hash begin with it."""
    wanted = sa.select(ModelRow).order_by(ModelRow.created_at)
    if query is not None:
        wanted = wanted.where(
            sa.or_(
                ModelRow.name == query,
                ModelRow.id.startswith(query, autoescape=True),
                ModelRow.source_sha256.startswith(query, autoescape=True),
            )
        )
    return [to_model(row) for row in session.scalars(wanted)]


def ensure_artifact(
    session: Session, manifest: dict[str, Any], sha256: str, size: int, variant: str | None
) -> Artifact:
    """The stored artifact of that hash, stored now with its model where it was not."""
    model = ensure_model(
        session,
        manifest["name"],
        manifest["source_sha256"],
        manifest["inputs"],
        manifest["outputs"],
    )
    row = session.get(ArtifactRow, sha256)
    if row is None:
        row = artifact_row(model.id, manifest, sha256, size, variant)
        session.add(row)
        session.flush()
    return to_artifact(row)


def find_artifacts(
    session: Session, source_sha256: str | None, parts: Mapping[str, str | None]
) -> list[Artifact]:
    """Artifacts, oldest first, of one source model or all; `parts` maps columns to what they must
    be, None to anything."""
    wanted = sa.select(ArtifactRow).order_by(ArtifactRow.created_at)
    for column, value in parts.items():
        if value is not None:
            wanted = wanted.where(getattr(ArtifactRow, column) == value)
    if source_sha256 is not None:
        wanted = wanted.join(ModelRow).where(ModelRow.source_sha256 == source_sha256)
    return [to_artifact(row) for row in session.scalars(wanted)]


def with_prefix(session: Session, sha256: str) -> list[Artifact]:
    """At most two artifacts whose hash begins with `sha256`: enough to tell one from several."""
    wanted = sa.select(ArtifactRow).where(ArtifactRow.sha256.startswith(sha256, autoescape=True))
    return [to_artifact(row) for row in session.scalars(wanted.limit(2))]
