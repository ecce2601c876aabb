"""To and from the two files of MetaSchedule's own JSONDatabase.

`database_workload.json` holds a kernel a line, [hash, base64 of its IR as JSON], and
`database_tuning_record.json` a record a line, [line of the kernel, [trace, seconds, target,
arguments]]. They name no hardware: who reads them says which machine the times are of.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm.s_tir.meta_schedule.database import TuningRecord, Workload

from lepton_tvm.artifact.manifest import versions
from lepton_tvm.artifact.writer import write_atomic
from lepton_tvm.db import Database, Trial, TrialKey
from lepton_tvm.errors import InputError
from lepton_tvm.ir.bfloat16 import load_kernel
from lepton_tvm.measure import this_machine
from lepton_tvm.targets import parse_target
from lepton_tvm.tuning.metaschedule import (
    SCHEDULES,
    plain,
    record_trial,
    target_text,
    workload_hash,
)
from lepton_tvm.tuning.traces import check_trace
from lepton_tvm.workers.zygote_parent import child_environment, describe_end

__all__ = ["ExchangeReport", "export_metaschedule", "import_metaschedule", "read_files"]

WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"
_MAX_FILE, _MAX_LINE = 1 << 30, 64 << 20
_MAX_TIMES = 10_000


@dataclass(frozen=True)
class ExchangeReport:
    """What went over: `records` of `workloads` kernels, times of `hardware`; and what did not."""

    hardware: str
    workloads: int
    records: int
    skipped: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return {**vars(self), "skipped": list(self.skipped)}


def export_metaschedule(
    database: Database, folder: str | Path, *, hardware: str | None = None
) -> ExchangeReport:
    """Write the working trials of one machine (default: this one) and the installed TVM.

    Raises InputError where the files are there already or cannot be written.
    """
    place = Path(folder)
    machine = hardware or this_machine().fingerprint
    taken = [p for p in (place / WORKLOADS, place / RECORDS) if p.exists()]
    if taken:
        raise InputError(f"{taken[0]} exists already; give another folder")
    lines: dict[str, int] = {}
    workloads: list[str] = []
    records: list[str] = []
    left: Counter[str] = Counter()
    for key in database.tuning.keys(hardware=machine):
        if key.tvm_version != versions()["tvm"]:
            left[f"made with TVM {key.tvm_version}"] += database.tuning.count([key])["trials"]
            continue
        target = _config(key.target)
        for trial in database.tuning.trials(key):
            reason = _unfit(trial, target)
            if reason:
                left[reason] += 1
                continue
            name = trial.variant_hash or key.workload_hash
            if name not in lines:
                lines[name] = len(workloads)
                stored = database.tuning.workload(name)
                assert stored is not None  # held by a foreign key
                kernel = Workload(load_kernel(stored[1]))
                workloads.append(json.dumps(plain(kernel.as_json())))
            record = [trial.trace, trial.samples_s, target, None]
            records.append(json.dumps([lines[name], record]))
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_atomic(place / WORKLOADS, "".join(f"{w}\n" for w in workloads).encode())
        write_atomic(place / RECORDS, "".join(f"{r}\n" for r in records).encode())
    except OSError as e:
        raise InputError(f"cannot write to {place}: {e.strerror or e}") from e
    return ExchangeReport(machine, len(workloads), len(records), _told(left))


def import_metaschedule(
    database: Database, folder: str | Path, *, hardware: str | None = None
) -> ExchangeReport:
    """Add the records of the two files as trials of one machine (default: this one).

    They are kept under their own TVM target, for `LeptonDatabase`; nothing that is there changes.
    Every trace is checked and replayed on its kernel by MetaSchedule's reader, and what does not
    fit is left out and told. Raises InputError for files that are not of this kind.
    """
    database.check_writable()
    place = Path(folder)
    machine = hardware or this_machine().fingerprint
    _try_elsewhere(place)
    kernels, trials, left = read_files(place, machine)
    used = {t.key.workload_hash for t in trials}
    stored = {
        workload_hash(k.mod): (k.mod.get_global_vars()[0].name_hint, tvm.ir.save_json(k.mod))
        for _, k in kernels
        if k is not None
    }
    database.tuning.add_workloads([(h, *stored[h]) for h in sorted(used)])
    before = database.tuning.count()["trials"]
    database.tuning.add_trials(trials)
    added = database.tuning.count()["trials"] - before
    left["here already"] += len(trials) - added
    return ExchangeReport(machine, len(used), added, _told(left))


def _try_elsewhere(place: Path) -> None:
    """Read the files in a process of its own first: a stranger's may crash TVM's readers."""
    code = f"import sys, pathlib, {__name__} as m; m.read_files(pathlib.Path(sys.argv[1]), '')"
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)],
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    # what is wrong with files that do not crash is told by who reads them here
    if done.returncode < 0:
        raise InputError(
            f"{place}: TVM's reader crashes on these files ({describe_end(-done.returncode, '')}): "
            "they are damaged or malicious; nothing was imported"
        )


def read_files(
    place: Path, machine: str
) -> tuple[list[tuple[str, Workload | None]], list[Trial], Counter[str]]:
    """The kernels of the two files with their TVM versions, the trials they make, what is left out.

    The trials are those of `machine`. Raises InputError for files that are not of this kind.
    """
    left: Counter[str] = Counter()
    kernels = [_kernel(data, n, place) for n, data in _lines(place / WORKLOADS)]
    trials = []
    for number, data in _lines(place / RECORDS):
        where = f"{place / RECORDS} line {number}"
        index, record = _record(data, where)
        if not 0 <= index < len(kernels):
            raise InputError(f"{where} names kernel {index} of {len(kernels)}")
        version, kernel = kernels[index]
        if kernel is None:
            left[f"made with TVM {version}, installed is {versions()['tvm']}"] += 1
            continue
        try:
            trials.append(_trial(record, kernel, machine))
        except InputError as e:
            left[str(e)] += 1
    return kernels, trials, left


def _unfit(trial: Trial, target: Any) -> str | None:
    if trial.state != "ok" or not trial.samples_s:
        return "they did not run"
    if trial.trace is None:
        return "they have no trace (the zero-trial schedule without one)"
    if target is None:
        return "TVM has no target of that name"
    try:
        check_trace(trial.trace)
    except InputError as e:
        return str(e)
    return None


def _config(text: str) -> Any:
    """The TVM target of a key, as JSON; ours begin with FAMILY:ISA, then `cores=N`."""
    if text.startswith("{"):
        return json.loads(text)
    words = text.split()
    cores = [int(w[6:]) for w in words if w.startswith("cores=") and w[6:].isdigit()]
    try:
        target = parse_target(words[0])
    except InputError:
        return None
    return plain(dataclasses.replace(target, cores=(cores or [target.cores])[0]).tvm.export())


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise InputError(f"{path} is larger than {_MAX_FILE >> 30} GiB")
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(_MAX_LINE + 1):
                number += 1
                if len(line) > _MAX_LINE:
                    raise InputError(f"{path} line {number} is longer than {_MAX_LINE >> 20} MiB")
                yield number, json.loads(line, parse_constant=_no_number)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the folder of a JSONDatabase") from None
    except (OSError, ValueError, RecursionError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"{path} cannot be read: {e}") from e


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def _kernel(data: Any, number: int, place: Path) -> tuple[str, Workload | None]:
    """TVM's version and the kernel of a line; None where another TVM wrote it."""
    where = f"{place / WORKLOADS} line {number}"
    if not isinstance(data, list) or len(data) != 2 or not all(isinstance(x, str) for x in data):
        raise InputError(f"{where} is not a kernel of MetaSchedule")
    try:
        # TVM puts the length of the text before it, in 8 bytes
        graph = json.loads(base64.b64decode(data[1], validate=True)[8:])
        version = str(graph["metadata"]["tvm_version"])[:40]
        if version != versions()["tvm"]:
            return version, None
        kernel = Workload.from_json(data)
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError, RuntimeError) as e:
        raise InputError(f"{where} is not a kernel of MetaSchedule: {str(e)[:200]}") from e
    return version, kernel


def _record(data: Any, where: str) -> tuple[int, list[Any]]:
    fits = isinstance(data, list) and len(data) == 2 and isinstance(data[1], list)
    if not fits or not isinstance(data[0], int) or len(data[1]) != 4:
        raise InputError(f"{where} is not a record of MetaSchedule")
    return data[0], data[1]


def _trial(record: list[Any], kernel: Workload, hardware: str) -> Trial:
    trace, times, target, _ = record
    check_trace(trace)
    if not isinstance(target, dict) or not target.get("kind"):
        raise InputError("a record names no target")
    if times is not None and not (
        isinstance(times, list)
        and len(times) <= _MAX_TIMES
        and all(isinstance(t, (int, float)) for t in times)
    ):
        raise InputError(f"a record's times are not numbers, {_MAX_TIMES} at most")
    try:
        TuningRecord.from_json([trace, times, None, None], kernel)
    except (ValueError, TypeError, RuntimeError) as e:
        raise InputError("a trace does not fit its kernel") from e
    key = TrialKey(
        workload_hash=workload_hash(kernel.mod),
        target=target_text(target),
        hardware=hardware,
        tvm_version=versions()["tvm"] or "unknown",
        schedule_version=SCHEDULES,
    )
    return record_trial(key, trace, times)


def _told(left: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{count} records: {reason}" for reason, count in sorted(left.items()) if count)
