"""`lepton-tvm db`: look into the database, move its records, clear what nothing refers to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_tvm.cli.options import Db, Json
from lepton_tvm.cli.session import Output, command
from lepton_tvm.errors import InputError

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)

Key = Annotated[
    str, typer.Argument(metavar="ID", help="A model's name, or how a sha256 or job id begins.")
]
ArchiveFile = Annotated[Path, typer.Argument(metavar="FILE", help="A zip file of records.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, delete nothing.")]


@command(app, "list")
def list_records(db: Db = None, as_json: Json = False) -> Output:
    """List models with their artifacts and the latest median latency of each."""
    from lepton_tvm.db.transfer import show

    with _existing(db) as database:
        data = show(database)
    return Output(data, _table(data))


@command(app, "show")
def show_record(key: Key, db: Db = None, as_json: Json = False) -> Output:
    """Show a model, an artifact or a job with everything that is recorded about it."""
    import json

    with _existing(db) as database:
        data = find(database, key)
    return Output(data, json.dumps(data, indent=2))


@command(app, "export")
def export_file(file: ArchiveFile, db: Db = None, as_json: Json = False) -> Output:
    """Write all records and artifacts to one zip file."""
    from lepton_tvm.db.transfer import export_records

    with _existing(db) as database:
        report = export_records(database, file).to_json()
    return Output({"file": str(file), **report}, _moved("written to", file, report))


@command(app, "import")
def import_file(file: ArchiveFile, db: Db = None, as_json: Json = False) -> Output:
    """Add the records of an exported file; what is there already stays as it is."""
    from lepton_tvm.db import open_database
    from lepton_tvm.db.transfer import import_records

    with open_database(db) as database:
        report = import_records(database, file).to_json()
    return Output({"file": str(file), **report}, _moved("read from", file, report))


@command(app, "gc")
def collect(dry_run: DryRun = False, db: Db = None, as_json: Json = False) -> Output:
    """Delete artifact files that no record names; list recorded ones that are damaged."""
    from lepton_tvm.db.transfer import gc

    with _existing(db) as database:
        report = gc(database, dry_run=dry_run).to_json()
    verb = "would be deleted" if dry_run else "deleted"
    lines = [f"{len(report['removed'])} files {verb}, {report['freed_bytes']} bytes"]
    lines += [f"damaged: {text}" for text in report["damaged"]]
    return Output({"dry_run": dry_run, **report}, "\n".join(lines))


def _existing(db: str | None) -> Any:
    """The database, which must be there already: looking at one should not make an empty one."""
    from lepton_tvm.db import open_database
    from lepton_tvm.db.engine import parse_url

    place = parse_url(db)
    if place.file is not None and not place.file.exists():
        raise InputError(
            f"database {place} does not exist; lepton-tvm compile makes one, --db names another"
        )
    return open_database(db)


def find(database: Any, key: str) -> dict[str, Any]:
    """The one model, artifact or job that `key` names; InputError unless there is just one."""
    if not key:
        raise InputError("the id is empty; lepton-tvm db list shows what there is")
    found = [{"kind": "model", **m.to_json()} for m in database.models(key)]
    for artifact in database.artifacts():
        if artifact.sha256.startswith(key):
            runs = [m.to_json() for m in database.measurements(artifact.sha256)]
            evaluations = [e.to_json() for e in database.evaluations(artifact.sha256)]
            about = {"measurements": runs, "evaluations": evaluations}
            found.append({"kind": "artifact", **artifact.to_json(), **about})
    found += [{"kind": "job", **j.to_json()} for j in database.jobs() if j.id.startswith(key)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"nothing in {database.url} is named {key!r}; see lepton-tvm db list")
    names = ", ".join(f"{f['kind']} {f.get('sha256') or f['id']}" for f in found[:5])
    raise InputError(f"{key!r} names {len(found)} records ({names}); give more of the id")


def _moved(what: str, file: Path, report: dict[str, Any]) -> str:
    lines = [f"{report['rows']} records and {report['artifacts']} artifacts {what} {file}"]
    return "\n".join(lines + [f"left out: {text}" for text in report["skipped"]])


def _table(data: dict[str, Any]) -> Any:
    if not data["models"]:
        return f"{data['db']} (schema {data['schema']}) holds no models"
    from rich.table import Table

    table = Table("model", "variant", "artifact", "target", "ISA", "bytes", "multiply-adds", "ms")
    for model in data["models"]:
        if not model["artifacts"]:
            table.add_row(model["name"])
        for a in model["artifacts"]:
            latest = a["latest_median_ms"]
            table.add_row(
                model["name"],
                a["variant"],
                a["sha256"][:12],
                a["target"],
                a["isa"],
                str(a["size_bytes"]),
                str(a["macs"] if a["macs"] is not None else ""),
                "" if latest is None else f"{latest:.3f}",
            )
    table.caption = f"{data['db']}, {len(data['jobs'])} jobs"
    return table
