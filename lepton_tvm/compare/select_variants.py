"""Choosing what to compare: one model, its float baseline and its variants for one target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lepton_tvm.db import Artifact, Database, ModelRecord
from lepton_tvm.db.records import model_id
from lepton_tvm.errors import InputError, TargetError
from lepton_tvm.measure.loaded_artifacts import ArtifactPlace, LocalArtifacts
from lepton_tvm.model import Model

__all__ = ["Selection", "find_model", "select"]


@dataclass(frozen=True)
class Selection:
    """What will be run, and which stored artifacts will not be and why."""

    model: ModelRecord
    baseline: Artifact
    variants: tuple[Artifact, ...]
    skipped: tuple[str, ...]


def select(
    database: Database,
    model: Model | str | None,
    target: str | None,
    place: ArtifactPlace | None = None,
) -> Selection:
    """The newest artifact of each variant of `model` for one target that the machine can run.

    The machine is `place`'s; default: this one. `target` as the artifacts state it (`x86:avx2`);
    default: the one compiled for last. Raises InputError that says what is there where nothing
    fits.
    """
    record = find_model(database, model)
    skipped: list[str] = []
    check = (place or LocalArtifacts()).check
    runnable = [a for a in database.artifacts(model_id=record.id) if _runs(a, check, skipped)]
    if not runnable:
        reasons = "; ".join(skipped) or "none is stored"
        where = "this machine" if place is None else "the device"
        raise InputError(
            f"no artifact of model {record.name!r} in {database.url} runs on {where}: {reasons}"
        )
    chosen = _target(runnable, target, database)
    newest: dict[str, Artifact] = {}
    for artifact in runnable:
        if artifact.target != chosen:
            skipped.append(f"{_label(artifact)}: it is for target {artifact.target}")
            continue
        if artifact.variant in newest:
            skipped.append(f"{_label(newest[artifact.variant])}: a newer one is stored")
        newest[artifact.variant] = artifact
    baselines = [a for a in newest.values() if a.is_baseline]
    if not baselines:
        raise InputError(
            f"no float baseline of model {record.name!r} for target {chosen} in {database.url}: "
            f"{_no_baseline(newest.values())} (stored: {', '.join(sorted(newest))})"
        )
    variants = tuple(a for a in newest.values() if not a.is_baseline)
    return Selection(record, baselines[0], variants, tuple(skipped))


def _no_baseline(stored: Iterable[Artifact]) -> str:
    """What to do where there is nothing to compare with."""
    loads = [step for a in stored for step in a.manifest["recipe"] if step["name"] == "load"]
    if any(step["options"].get("precision") for step in loads):
        return "its file is quantized already; compile the float model that it was made of"
    return "compile the model without --quantize and --prune for this target first"


def find_model(database: Database, model: Model | str | None) -> ModelRecord:
    """The one stored model that is meant. Raises InputError that says what is there."""
    found = _models(database, model)
    names = sorted({m.name for m in database.models()})
    have = f"stored are {', '.join(names)}" if names else "the database is empty: compile a model"
    if not found:
        asked = model.name if isinstance(model, Model) else model
        raise InputError(f"no model {asked!r} in {database.url}; {have}")
    with_artifacts = [m for m in found if database.artifacts(model_id=m.id)] or found
    if len(with_artifacts) == 1:
        return with_artifacts[0]
    if model is None:
        raise InputError(f"{database.url} holds several models: name one; {have}")
    listed = ", ".join(f"{m.id[:12]} ({_shapes(m)})" for m in with_artifacts)
    raise InputError(f"several models in {database.url} match {model!r}: name one by id: {listed}")


def _models(database: Database, model: Model | str | None) -> list[ModelRecord]:
    if model is None or isinstance(model, str):
        return database.models(model)
    key = model_id(model.source_sha256, [t.to_json() for t in model.inputs])
    return [m for m in database.models() if m.id == key]


def _target(runnable: list[Artifact], target: str | None, database: Database) -> str:
    if target is None:
        return runnable[-1].target
    if any(a.target == target for a in runnable):
        return target
    known = ", ".join(sorted({a.target for a in runnable}))
    raise InputError(f"no artifact for target {target!r} in {database.url}; stored: {known}")


def _runs(
    artifact: Artifact, check: Callable[[Mapping[str, Any], str], None], skipped: list[str]
) -> bool:
    try:
        check(artifact.manifest, artifact.sha256[:12])
    except TargetError as e:
        skipped.append(f"{_label(artifact)}: {e}")
        return False
    return True


def _label(artifact: Artifact) -> str:
    return f"{artifact.variant} {artifact.sha256[:12]}"


def _shapes(model: ModelRecord) -> str:
    return ", ".join(f"{t['name']} {_dims(t)} {t['dtype']}" for t in model.inputs)


def _dims(tensor: dict[str, Any]) -> str:
    return "x".join(map(str, tensor["shape"]))
