"""Our database as MetaSchedule's: what TVM's own tuner writes lands in our tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.database import PyDatabase, TuningRecord, Workload

from lepton_tvm.artifact.manifest import versions
from lepton_tvm.compiler.fused_kernels import kernel_hash
from lepton_tvm.db import Database, Trial, TrialKey
from lepton_tvm.errors import InputError
from lepton_tvm.ir.bfloat16 import load_kernel
from lepton_tvm.measure import this_machine
from lepton_tvm.tuning.traces import check_trace

__all__ = ["SCHEDULES", "LeptonDatabase", "plain", "record_trial", "target_text", "workload_hash"]

#: The schedule version of records whose traces are MetaSchedule's own and hold the whole schedule.
SCHEDULES = "metaschedule"
# What MetaSchedule writes as the time of a candidate that did not run.
_NEVER = 1e9


def workload_hash(mod: tvm.IRModule) -> str:
    """The hash under which a module's records are stored; that of the kernel where it is one."""
    functions = list(mod.functions.values())
    if len(functions) == 1 and isinstance(functions[0], tvm.tirx.PrimFunc):
        return kernel_hash(functions[0])
    return f"{tvm_ffi.structural_hash(mod) & (1 << 64) - 1:016x}"


def target_text(target: tvm.target.Target | Mapping[str, Any]) -> str:
    """A TVM target as the text of a key: its configuration, in one order."""
    config = target.export() if isinstance(target, tvm.target.Target) else target
    text = json.dumps(plain(config), sort_keys=True, separators=(",", ":"))
    return text if len(text) <= 255 else f"tvm:{hashlib.sha256(text.encode()).hexdigest()}"


def record_trial(key: TrialKey, trace: Any, run_secs: list[float] | None) -> Trial:
    """A trial of a MetaSchedule record: failed where none of its times is one."""
    times = [float(t) for t in run_secs or [] if 0 < float(t) < _NEVER]
    state, error = ("ok", None) if times else ("failed", "it was not built or did not run")
    median = sorted(times)[len(times) // 2] if times else None
    return Trial(key, state, trace, times, median, error=error)


@derived_object
class LeptonDatabase(PyDatabase):
    """A MetaSchedule database over ours, for one target on one machine.

    Hand it to TVM's tuner (`database=`) or enter it and compile. Unlike TVM's own databases it is
    shared by processes, and it answers for its target and machine only: `query_*` for another
    target finds nothing. `target` is a TVM target, `hardware` a machine's fingerprint (default:
    this machine's). Records that hold for another TVM version are not seen.
    """

    def __init__(
        self, database: Database, target: tvm.target.Target, hardware: str | None = None
    ) -> None:
        super().__init__()
        self.database = database
        self.target = target
        self.parts = {
            "target": target_text(target),
            "hardware": hardware or this_machine().fingerprint,
            "tvm_version": versions()["tvm"] or "unknown",
            "schedule_version": SCHEDULES,
        }
        self.workloads: dict[str, Workload] = {}

    def has_workload(self, mod: tvm.IRModule) -> bool:
        """Whether the kernel is stored."""
        name = workload_hash(mod)
        return name in self.workloads or self.database.tuning.workload(name) is not None

    def commit_workload(self, mod: tvm.IRModule) -> Workload:
        """Store the kernel if it is not there yet."""
        name = workload_hash(mod)
        if name not in self.workloads:
            if not self.has_workload(mod):
                title = mod.get_global_vars()[0].name_hint
                self.database.tuning.add_workload(name, title, tvm.ir.save_json(mod))
            self.workloads[name] = Workload(mod)
        return self.workloads[name]

    def commit_tuning_record(self, record: TuningRecord) -> None:
        """Store one trial, and its kernel; one that is there already stays as it is.

        Raises InputError for a record of another target.
        """
        if record.target is not None and target_text(record.target) != self.parts["target"]:
            raise InputError(
                f"a record for target {target_text(record.target)} does not belong among those "
                f"for {self.parts['target']}; make a LeptonDatabase for its target"
            )
        self.commit_workload(record.workload.mod)
        key = self.key(self._name(record.workload))
        trace = record.as_json()[0]
        times = None if record.run_secs is None else [float(t) for t in record.run_secs]
        self.database.tuning.finish(record_trial(key, trace, times))

    def get_top_k(self, workload: Workload, top_k: int) -> list[TuningRecord]:
        """The fastest working trials of exactly this kernel, target, machine and TVM."""
        key = self.key(self._name(workload))
        found = self.database.tuning.trials(key, limit=max(top_k, 0))
        return [self._record(t, workload) for t in found if t.state == "ok"]

    def get_all_tuning_records(self) -> list[TuningRecord]:
        """All trials for this target, machine and TVM."""
        records = []
        for key in self.database.tuning.keys(**self.parts):
            workload = self._workload(key.workload_hash)
            found = self.database.tuning.trials(key)
            records += [self._record(t, workload) for t in found]
        return records

    def query_tuning_record(
        self, mod: tvm.IRModule, target: tvm.target.Target, workload_name: str | None = None
    ) -> TuningRecord | None:
        """The fastest trial, or None: also where `target` is not this database's."""
        if target_text(target) != self.parts["target"] or not self.has_workload(mod):
            return None
        found = self.get_top_k(self.commit_workload(mod), 1)
        return found[0] if found else None

    def query_schedule(
        self, mod: tvm.IRModule, target: tvm.target.Target, workload_name: str | None = None
    ) -> Any:
        """The fastest trial as a schedule of `mod`, or None."""
        record = self.query_tuning_record(mod, target, workload_name)
        if record is None:
            return None
        schedule = tvm.s_tir.Schedule(mod)
        record.trace.apply_to_schedule(schedule, remove_postproc=False)
        return schedule

    def query_ir_module(
        self, mod: tvm.IRModule, target: tvm.target.Target, workload_name: str | None = None
    ) -> tvm.IRModule | None:
        """The fastest trial as a scheduled module, or None."""
        schedule = self.query_schedule(mod, target, workload_name)
        return None if schedule is None else schedule.mod

    def __len__(self) -> int:
        keys = self.database.tuning.keys(**self.parts)
        return self.database.tuning.count(keys)["trials"]

    def key(self, name: str) -> TrialKey:
        """The key of a kernel's records here."""
        return TrialKey(workload_hash=name, **self.parts)

    def _name(self, workload: Workload) -> str:
        name = workload_hash(workload.mod)
        self.workloads.setdefault(name, workload)
        return name

    def _workload(self, name: str) -> Workload:
        if name not in self.workloads:
            stored = self.database.tuning.workload(name)
            if stored is None:
                raise InputError(f"kernel {name} is not in {self.database.url}")
            self.workloads[name] = Workload(load_kernel(stored[1]))
        return self.workloads[name]

    def _record(self, trial: Trial, workload: Workload) -> TuningRecord:
        check_trace(trial.trace)
        times = trial.samples_s or [1e10]
        return TuningRecord.from_json([trial.trace, times, None, None], workload)


def plain(value: Any) -> Any:
    """TVM's maps, arrays and boxed numbers as Python's own."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (str, bool)) or value is None:
        return value
    if isinstance(value, (list, tuple)) or hasattr(value, "__len__"):
        return [plain(v) for v in value]
    return int(value) if float(value).is_integer() else float(value)
