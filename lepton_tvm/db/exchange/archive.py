"""Taking records out of a database into a file, and out of a file into another database.

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
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lepton_tvm.db.database import Database
from lepton_tvm.db.exchange.insert_rows import insert_rows
from lepton_tvm.db.exchange.older_exports import upgraded
from lepton_tvm.db.exchange.row_checks import TABLES, check_row
from lepton_tvm.db.row_records import columns
from lepton_tvm.db.schema import HEAD
from lepton_tvm.db.tables import ArtifactRow
from lepton_tvm.errors import ArtifactError, DatabaseError, InputError

__all__ = ["TransferReport", "export_records", "import_records", "read_export"]

_FORMAT = "lepton_tvm export"
_ARTIFACT = re.compile(r"artifacts/([0-9a-f]{64})\.so")
_MAX_BYTES = 4 << 30
# RuntimeError: encrypted, packed in another way, or nested too deeply.
_UNREADABLE = (
    OSError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, ValueError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class TransferReport:
    """How many rows and artifact files went over, and what was left out and why."""

    rows: int
    artifacts: int
    skipped: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return {**asdict(self), "skipped": list(self.skipped)}


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
    rows, blobs = read_export(path)
    skipped = [
        f"artifact {row['sha256'][:12]}: its file is not in the export"
        for table, row in rows
        if table == "artifacts" and row["sha256"] not in blobs
    ]
    for sha256, data in blobs.items():
        database.blobs.put(data, sha256)
    order = list(TABLES)
    rows.sort(key=lambda entry: order.index(entry[0]))
    with database.writing() as session:
        inserted = insert_rows(session, rows)
    return TransferReport(inserted.added, len(blobs), (*skipped, *inserted.told()))


def read_export(
    path: str | Path,
) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, bytes]]:
    """The checked rows of an export by table, its artifact files by hash. Raises InputError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_rows(archive, path), _read_artifacts(archive, path)
    except FileNotFoundError:
        raise InputError(f"export {path} does not exist") from None
    except InputError:
        raise
    except _UNREADABLE as e:
        raise InputError(f"export {path} cannot be read: {e}") from e


def _write(database: Database, archive: zipfile.ZipFile) -> TransferReport:
    lines, hashes, skipped, stored = [], [], [], 0
    with database.reading() as session:
        for name, table in TABLES.items():
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
    if table not in TABLES or not isinstance(row, dict):
        raise InputError(f"export {path} has a record of an unknown kind: {table!r}")
    check_row(table, row, f"export {path}")
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
