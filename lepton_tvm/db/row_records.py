"""From rows to records and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from lepton_tvm.db import records
from lepton_tvm.db.records import Artifact, ModelRecord
from lepton_tvm.db.tables import ArtifactRow, ModelRow
from lepton_tvm.errors import InputError

__all__ = ["artifact_row", "columns", "ensure_model", "to_artifact", "to_model"]


def columns(row: Any) -> dict[str, Any]:
    """The column values of a row by attribute name."""
    return {c.key: getattr(row, c.key) for c in sa.inspect(type(row)).columns}


def ensure_model(
    session: Session,
    name: str,
    source_sha256: str,
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
) -> ModelRecord:
    """The stored model of that source and those inputs, stored now where it was not."""
    if not name:
        raise InputError("a model needs a name")
    ins, outs = [dict(t) for t in inputs], [dict(t) for t in outputs]
    key = records.model_id(source_sha256, ins)
    row = session.get(ModelRow, key)
    if row is None:
        row = ModelRow(
            id=key,
            name=name,
            source_sha256=source_sha256,
            inputs=ins,
            outputs=outs,
            created_at=records.now(),
        )
        session.add(row)
        session.flush()
    return to_model(row)


def artifact_row(
    model: str, manifest: dict[str, Any], sha256: str, size: int, variant: str | None
) -> ArtifactRow:
    """The row of an artifact of a stored model."""
    return ArtifactRow(
        sha256=sha256,
        model_id=model,
        variant=variant or manifest.get("variant") or manifest["precision"],
        precision=manifest["precision"],
        target=manifest["target"],
        arch=manifest["arch"],
        isa=manifest["isa"],
        tvm_version=manifest["versions"].get("tvm"),
        size_bytes=size,
        macs=manifest.get("macs"),
        manifest=manifest,
        created_at=records.now(),
    )


def to_model(row: ModelRow) -> ModelRecord:
    """The record of a row."""
    return ModelRecord(**columns(row))


def to_artifact(row: ArtifactRow) -> Artifact:
    """The record of a row."""
    return Artifact(**columns(row))
