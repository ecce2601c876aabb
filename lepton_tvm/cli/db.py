"""`lepton-tvm db`: look into the database, move its records, delete unused files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_tvm.cli.command import Output, command, new_app
from lepton_tvm.cli.options import Db, Json, Target, Threads
from lepton_tvm.errors import InputError

__all__ = ["app"]

app = new_app(name="db", help="Look into the database, move it, tidy it up.", no_args_is_help=True)

Key = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="Name of a model or kernel, or the start of any record's id."
    ),
]
Limit = Annotated[
    int,
    typer.Option("--limit", min=0, metavar="N", help="Show at most N; 0 shows all."),
]
Offset = Annotated[int, typer.Option("--offset", min=0, metavar="N", help="Skip the first N.")]
ArchiveFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="A zip file of records; with --metaschedule a folder."),
]
MetaSchedule = Annotated[
    bool,
    typer.Option(
        "--metaschedule",
        help="Treat FILE as a folder of MetaSchedule's JSON database.",
    ),
]
Hardware = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Use the records of the machine with this fingerprint.",
        show_default="this machine",
    ),
]
Other = Annotated[str, typer.Argument(metavar="URL", help="A database URL or a SQLite file.")]
WithArtifacts = Annotated[
    bool, typer.Option("--artifacts", help="Copy artifact files too; they are native code.")
]
OlderSchedules = Annotated[
    bool,
    typer.Option("--older-schedules", help="Delete trials of other versions' schedules too."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be deleted; delete nothing.")
]


@command(app, "list", example="lepton-tvm db list --limit 5")
def list_records(
    limit: Limit = 20, offset: Offset = 0, db: Db = None, as_json: Json = False
) -> Output:
    """List models, newest first: artifacts, latest times, tuning."""
    from lepton_tvm.cli.db_overview import overview_text
    from lepton_tvm.db.views.overview import overview

    with _existing(db) as database:
        data = overview(database, (limit or None, offset))
    return Output(data, lambda: overview_text(data))


@command(app, "show", example="lepton-tvm db show model")
def show_record(
    key: Key, limit: Limit = 20, offset: Offset = 0, db: Db = None, as_json: Json = False
) -> Output:
    """Show all about a model, artifact, job, kernel or trial."""
    from lepton_tvm.cli.db_record import record_text
    from lepton_tvm.db.views.find_record import find

    with _existing(db) as database:
        data = find(database, key, (limit or None, offset))
    return Output(data, lambda: record_text(data))


@command(app, "why", example="lepton-tvm db why model --target x86:avx2")
def why(
    key: Key,
    target: Target = "native",
    threads: Threads = 1,
    hardware: Hardware = None,
    db: Db = None,
    as_json: Json = False,
) -> Output:
    """Show which kernels have a tuning record to use, or why not.

    A record is used for exactly its target, machine and versions; a miss names the difference.
    """
    from lepton_tvm.cli.db_misses import misses_text
    from lepton_tvm.compiler.tuned import family_version, trial_key
    from lepton_tvm.db.views.why import explain
    from lepton_tvm.measure import this_machine
    from lepton_tvm.targets import parse_target

    goal = parse_target(target)
    machine = hardware or this_machine().fingerprint_for(goal.family)

    def key_of(workload: str, name: str) -> Any:
        return trial_key(workload, name, goal, machine, threads)

    asked = {**key_of("", "").to_json(), "schedule_version": family_version(goal.family)}
    del asked["workload_hash"]
    with _existing(db) as database:
        found = explain(database, key, key_of)
    data = {"asked": asked, "kernels": [e.to_json() for e in found]}
    return Output(data, lambda: misses_text(data))


@command(app, "export", example="lepton-tvm db export records.zip")
def export_file(
    file: ArchiveFile,
    metaschedule: MetaSchedule = False,
    hardware: Hardware = None,
    db: Db = None,
    as_json: Json = False,
) -> Output:
    """Write all records and artifacts to one zip file.

    With --metaschedule, write one machine's trials as TVM's own tuner reads them."""
    from lepton_tvm.db.exchange.archive import export_records

    _check_hardware(hardware, metaschedule)
    with _existing(db) as database:
        if metaschedule:
            from lepton_tvm.tuning.metaschedule_json import export_metaschedule

            return _exchanged(export_metaschedule(database, file, hardware=hardware), "to", file)
        report = export_records(database, file).to_json()
    return Output({"file": str(file), **report}, _moved("written to", file, report))


@command(app, "import", example="lepton-tvm db import records.zip")
def import_file(
    file: ArchiveFile,
    metaschedule: MetaSchedule = False,
    hardware: Hardware = None,
    db: Db = None,
    as_json: Json = False,
) -> Output:
    """Add the records of an exported file; keep all existing ones."""
    from lepton_tvm.db.exchange.archive import import_records, read_export

    _check_hardware(hardware, metaschedule)
    with _filled(db, lambda: metaschedule or read_export(file)) as database:
        if metaschedule:
            from lepton_tvm.tuning.metaschedule_json import import_metaschedule

            return _exchanged(import_metaschedule(database, file, hardware=hardware), "from", file)
        report = import_records(database, file).to_json()
    return Output({"file": str(file), **report}, _moved("read from", file, report))


@command(app, "merge", example="lepton-tvm db merge sqlite:///colleague.db")
def merge_other(
    other: Other, artifacts: WithArtifacts = False, db: Db = None, as_json: Json = False
) -> Output:
    """Add the records of another database, trusted or not."""
    from lepton_tvm.cli.terminal import printable
    from lepton_tvm.db.exchange.merge import merge, reading_other

    def check() -> None:
        with reading_other(other):
            pass

    with _filled(db, check) as database:
        report = merge(database, other, artifacts=artifacts).to_json()
    lines = [
        f"{report['rows']} records and {report['artifacts']} artifact files added, "
        f"{report['known']} were here already"
    ]
    lines += [printable(f"conflict: {text}") for text in report["conflicts"]]
    lines += [f"left out: {text}" for text in report["skipped"]]
    return Output({"other": _shown(other), **report}, "\n".join(lines))


@command(app, "gc", example="lepton-tvm db gc --dry-run")
def collect(
    dry_run: DryRun = False,
    older_schedules: OlderSchedules = False,
    db: Db = None,
    as_json: Json = False,
) -> Output:
    """Delete files that no record names, and dead claims.

    Lists damaged artifacts."""
    from lepton_tvm.db.gc import gc

    schedules = _schedules_in_use() if older_schedules else None
    with _existing(db) as database:
        report = gc(database, dry_run=dry_run, schedules=schedules).to_json()
    verb = "would be deleted" if dry_run else "deleted"
    lines = [f"{len(report['removed'])} files {verb}, {report['freed_bytes']} bytes"]
    if older_schedules or report["claims"]:
        lines.append(
            f"{report['claims']} claims, {report['trials']} trials and {report['kernels']} "
            f"kernels {verb}"
        )
    lines += [f"damaged: {text}" for text in report["damaged"]]
    return Output({"dry_run": dry_run, **report}, "\n".join(lines))


def _schedules_in_use() -> set[str]:
    from lepton_tvm.compiler.schedule_version import schedule_versions
    from lepton_tvm.compiler.tuned import family_version
    from lepton_tvm.targets import FAMILIES
    from lepton_tvm.tuning.metaschedule import SCHEDULES

    groups = [version for name in FAMILIES for version in schedule_versions(name).values()]
    return {SCHEDULES, *groups, *(family_version(name) for name in FAMILIES)}


def _shown(url: str) -> str:
    from lepton_tvm.db.location import parse_url

    return str(parse_url(url))


def _existing(db: str | None) -> Any:
    """The database, which must be there already: looking at one should not make an empty one."""
    from lepton_tvm.db import open_database

    return open_database(db, create=False)


def _filled(db: str | None, check: Callable[[], object]) -> Any:
    """The database, made where there is none; then `check` first looks whether that is worth it."""
    from lepton_tvm.db import open_database
    from lepton_tvm.db.location import parse_url

    place = parse_url(db)
    if place.file is not None and not place.file.exists():
        check()
    return open_database(db)


def _check_hardware(hardware: str | None, metaschedule: bool) -> None:
    if hardware is not None and not metaschedule:
        raise InputError("--hardware is only used with --metaschedule")


def _exchanged(report: Any, direction: str, file: Path) -> Output:
    data = {"file": str(file), **report.to_json()}
    lines = [
        f"{report.records} records of {report.workloads} kernels {direction} {file}, taken as "
        f"times of machine {report.hardware}"
    ]
    return Output(data, "\n".join(lines + [f"left out: {text}" for text in report.skipped]))


def _moved(what: str, file: Path, report: dict[str, Any]) -> str:
    lines = [f"{report['rows']} records and {report['artifacts']} artifacts {what} {file}"]
    return "\n".join(lines + [f"left out: {text}" for text in report["skipped"]])
