"""Taking records out of a database, into another, and clearing what nothing refers to.

An export is a zip file: `about.json`, `records.jsonl` (one `{"table", "row"}` a line) and
`artifacts/<sha256>.so`. Reading one trusts nothing: names are matched against what an export can
hold, sizes are bounded, and every artifact is checked against its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from lepton_tvm.db.blobs import age
from lepton_tvm.db.database import Database, columns
from lepton_tvm.db.older_exports import upgraded
from lepton_tvm.db.schema import HEAD
from lepton_tvm.db.tables import (
    ArtifactRow,
    Base,
    EvaluationRow,
    JobRow,
    MeasurementRow,
    ModelRow,
    SeedRow,
    TaskRow,
    TrialRow,
    TuningKeyRow,
    WinnerRow,
    WorkloadRow,
)
from lepton_tvm.errors import ArtifactError, DatabaseError, InputError

__all__ = ["GcReport", "TransferReport", "export_records", "gc", "import_records"]

_FORMAT = "lepton_tvm export"
# In the order in which rows may refer to earlier ones.
_TABLES: dict[str, type[Base]] = {
    row.__tablename__: row
    for row in (
        ModelRow,
        ArtifactRow,
        MeasurementRow,
        EvaluationRow,
        JobRow,
        SeedRow,
        WorkloadRow,
        TaskRow,
        TuningKeyRow,
        TrialRow,
        WinnerRow,
    )
}
_ARTIFACT = re.compile(r"artifacts/([0-9a-f]{64})\.so")
_MAX_BYTES = 4 << 30


@dataclass(frozen=True)
class TransferReport:
    """How many rows and artifact files went over, and what was left out and why."""

    rows: int
    artifacts: int
    skipped: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return {**asdict(self), "skipped": list(self.skipped)}


@dataclass(frozen=True)
class GcReport:
    """What was cleared: files nothing refers to, their bytes; and artifacts that are not whole."""

    removed: tuple[str, ...]
    freed_bytes: int
    damaged: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return {
            "removed": list(self.removed),
            "freed_bytes": self.freed_bytes,
            "damaged": list(self.damaged),
        }


def export_records(database: Database, path: str | Path) -> TransferReport:
    """Write everything to a zip file, whole or not at all. Raises DatabaseError."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            report = _write(database, archive)
        temporary.replace(target)
    except OSError as e:
        raise DatabaseError(f"cannot write export {target}: {e.strerror or e}") from e
    finally:
        temporary.unlink(missing_ok=True)
    return report


def import_records(database: Database, path: str | Path) -> TransferReport:
    """Add the records of an export that are not there yet; what is there stays as it is.

    Raises InputError for a file that is not a readable export; then nothing was added.
    """
    database.check_writable()
    try:
        with zipfile.ZipFile(path) as archive:
            rows = _read_rows(archive, path)
            blobs = _read_artifacts(archive, path)
    except FileNotFoundError:
        raise InputError(f"export {path} does not exist") from None
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, ValueError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"export {path} cannot be read: {e}") from e
    skipped = [
        f"artifact {row['sha256'][:12]}: its file is not in the export"
        for table, row in rows
        if table == "artifacts" and row["sha256"] not in blobs
    ]
    for sha256, data in blobs.items():
        database.blobs.put(data, sha256)
    added = _insert(database, rows)
    return TransferReport(added, len(blobs), tuple(skipped))


def gc(database: Database, *, grace_s: float = 3600.0, dry_run: bool = False) -> GcReport:
    """Delete artifact files that no record names and leftovers of killed writers.

    Files younger than `grace_s` seconds stay: their record may be about to be written. Artifacts
    that are recorded but missing or damaged are listed, not deleted.
    """
    if not dry_run:
        database.check_writable()
    known = {a.sha256 for a in database.artifacts()}
    stray = [p for sha, p in database.blobs.stored() if sha not in known and age(p) > grace_s]
    stray += database.blobs.leftovers(grace_s)
    freed = sum(p.stat().st_size for p in stray)
    damaged = []
    for sha256 in sorted(known):
        try:
            database.artifact_path(sha256)
        except ArtifactError as e:
            damaged.append(str(e))
    if not dry_run:
        for path in stray:
            path.unlink(missing_ok=True)
    return GcReport(tuple(p.name for p in stray), freed, tuple(damaged))


def _write(database: Database, archive: zipfile.ZipFile) -> TransferReport:
    lines, hashes, skipped, stored = [], [], [], 0
    with database.reading() as session:
        for name, table in _TABLES.items():
            for row in session.scalars(sa.select(table)):
                values = columns(row)
                lines.append(json.dumps({"table": name, "row": values}))
                if isinstance(row, ArtifactRow):
                    hashes.append(row.sha256)
    archive.writestr("about.json", json.dumps({"format": _FORMAT, "schema": HEAD}))
    archive.writestr("records.jsonl", "\n".join(lines))
    for sha256 in hashes:
        try:
            archive.write(database.artifact_path(sha256), f"artifacts/{sha256}.so")
        except ArtifactError as e:
            skipped.append(str(e))
        else:
            stored += 1
    return TransferReport(len(lines), stored, tuple(skipped))


def _read_rows(archive: zipfile.ZipFile, path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    names = archive.namelist()
    stray = [n for n in names if n not in ("about.json", "records.jsonl") and not _is_artifact(n)]
    if stray or len(names) != len(set(names)) or not {"about.json", "records.jsonl"} <= set(names):
        what = f"holds {stray[0]!r}" if stray else "lacks its records"
        raise InputError(f"{path} is not an export of lepton_tvm: it {what}")
    if sum(i.file_size for i in archive.infolist()) > _MAX_BYTES:
        raise InputError(f"export {path} would unpack to more than {_MAX_BYTES >> 30} GiB")
    about = json.loads(archive.read("about.json"))
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise InputError(f"{path} is not an export of lepton_tvm")
    if str(about.get("schema")) > HEAD:
        raise InputError(
            f"export {path} has schema {about.get('schema')}, this lepton_tvm knows up to {HEAD}; "
            "upgrade lepton_tvm"
        )
    text = archive.read("records.jsonl").decode()
    entries = upgraded([json.loads(line) for line in text.splitlines() if line])
    return [_checked_row(entry, path) for entry in entries]


def _is_artifact(name: str) -> bool:
    return _ARTIFACT.fullmatch(name) is not None


def _checked_row(entry: Any, path: str | Path) -> tuple[str, dict[str, Any]]:
    table = entry.get("table") if isinstance(entry, dict) else None
    row = entry.get("row") if isinstance(entry, dict) else None
    if table not in _TABLES or not isinstance(row, dict):
        raise InputError(f"export {path} has a record of an unknown kind: {table!r}")
    allowed = {c.key: c for c in sa.inspect(_TABLES[table]).columns}
    lacking = [k for k, c in allowed.items() if not c.nullable and row.get(k) is None]
    if lacking or set(row) - set(allowed):
        raise InputError(
            f"export {path} has a record of {table} with missing or unknown fields: "
            + ", ".join(lacking + sorted(set(row) - set(allowed)))
        )
    return table, row


def _read_artifacts(archive: zipfile.ZipFile, path: str | Path) -> dict[str, bytes]:
    blobs = {}
    for name in archive.namelist():
        match = _ARTIFACT.fullmatch(name)
        if match is None:
            continue
        data = archive.read(name)
        if hashlib.sha256(data).hexdigest() != match[1]:
            raise InputError(f"export {path} is damaged: {name} does not match its sha256")
        blobs[match[1]] = data
    return blobs


def _insert(database: Database, rows: list[tuple[str, dict[str, Any]]]) -> int:
    added = 0
    stored: dict[str, str] = {}
    with database.writing() as session:
        for name, table in _TABLES.items():
            keys = [str(c.key) for c in sa.inspect(table).primary_key]
            for row in (r for t, r in rows if t == name):
                if session.get(table, tuple(row[k] for k in keys)) is not None:
                    continue
                if table is TrialRow and _tried(session, row, stored):
                    continue
                if table is WinnerRow:
                    row = {**row, "trial_id": stored.get(row["trial_id"], row["trial_id"])}
                session.add(table(**row))
                added += 1
            session.flush()
    return added


def _tried(session: Session, row: dict[str, Any], stored: dict[str, str]) -> bool:
    """Whether this candidate was tried here too; then `stored` gets the id it has here."""
    same = sa.select(TrialRow.id).where(
        TrialRow.key_id == row["key_id"], TrialRow.candidate == row["candidate"]
    )
    known = session.scalar(same)
    if known is not None:
        stored[row["id"]] = known
    return known is not None
