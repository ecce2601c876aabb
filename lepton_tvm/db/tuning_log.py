"""The tuning log: which schedules were tried for which kernel, where, and how fast they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from lepton_tvm.db import claims, verdicts
from lepton_tvm.db import trial_records as trial_rows
from lepton_tvm.db.records import Finished, Trial, TrialKey, Winner, now
from lepton_tvm.db.tables import ClaimRow, TaskRow, TrialRow, TuningKeyRow, WorkloadRow
from lepton_tvm.db.tuning_keys import chunks, ensure_keys, key_id, key_of
from lepton_tvm.db.value_checks import check_candidate, check_trial, plain_text
from lepton_tvm.errors import InputError

if TYPE_CHECKING:
    from lepton_tvm.db.database import Database

__all__ = ["TuningLog"]


class TuningLog:
    """Workloads, trials, claims, winners and cost models, reached as `database.tuning`.

    The contract, beside that of `Database`:

    - A record is valid for its whole key: workload, target, hardware, TVM version, schedule
      version. A look-up returns records of exactly that key; `db.why.explain` says which part
      differed. `neighbours` alone crosses keys, to seed a search.
    - A candidate is stored once under a key, whoever finished it first.
    - A process claims candidates before it tries them. No candidate is given to two processes, and
      trials and claims together never exceed the limit they were claimed with. A claim ends when
      its trial is finished, when it is released, when its process is gone (seen at once on the same
      host), or when its lease is over. A process that stalls for longer than its lease and then
      finishes after all has its trial stored, even beyond the limit: no finished trial is lost.
    - Winners are added, never edited: the newest of a key counts. Of cost models only the newest
      of its kind is kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # workloads

    def add_workload(self, workload_hash: str, name: str, ir: str) -> None:
        """Store the IR text of a kernel under its structural hash."""
        self.add_workloads([(workload_hash, name, ir)])

    def add_workloads(self, workloads: Iterable[tuple[str, str, str]]) -> None:
        """Store (hash, name, IR text) of kernels, all or none; those that are there stay."""
        wanted = {workload_hash: (name, ir) for workload_hash, name, ir in workloads}
        with self._database.writing() as session:
            for some in chunks(list(wanted)):
                known = sa.select(WorkloadRow.hash).where(WorkloadRow.hash.in_(some))
                for found in session.scalars(known):
                    del wanted[found]
            session.add_all(
                WorkloadRow(hash=k, name=plain_text(name, 255), ir=ir, created_at=now())
                for k, (name, ir) in wanted.items()
            )

    def workload(self, workload_hash: str) -> tuple[str, str] | None:
        """Name and IR text of a stored kernel."""
        with self._database.reading() as session:
            row = session.get(WorkloadRow, workload_hash)
            return None if row is None else (row.name, row.ir)

    def add_tasks(self, model_id: str, variant: str, target: str, calls: Mapping[str, int]) -> None:
        """Note which stored workloads, by hash, are the kernels of a stored model, and how often
        one inference calls each. `variant` is what was done to the model."""
        part = {"model_id": model_id, "variant": variant, "target": target}
        with self._database.writing() as session:
            for workload_hash, count in calls.items():
                if session.get(TaskRow, (*part.values(), workload_hash)) is None:
                    session.add(TaskRow(**part, workload_hash=workload_hash, calls=count))

    # claims

    def claim(
        self,
        keys: Sequence[TrialKey],
        wanted: Sequence[tuple[TrialKey, str]],
        *,
        limit: int | None,
        job_id: str,
        lease_s: float = 120.0,
    ) -> list[tuple[TrialKey, str]]:
        """Take candidates to try: those of `wanted`, in order, that nobody has tried or taken.

        No more than `limit` less the trials and claims that `keys` have already; None: no limit.
        Raises InputError for a key that is not in `keys`.
        """
        strangers = [key for key, _ in wanted if key not in set(keys)]
        if strangers:
            raise InputError(f"{strangers[0]} is claimed but not among the keys of the limit")
        for _, candidate in wanted:
            check_candidate(candidate)
        ids = [key_id(key) for key in dict.fromkeys(keys)]
        with self._database.writing() as session:
            claims.drop_dead(session)
            ensure_keys(session, keys)
            room = None
            if limit is not None:
                used = claims.count_trials(session, ids) + claims.count_claims(session, ids)
                room = limit - used
            return claims.grant(session, wanted, room, job_id, lease_s)

    def renew(self, job_id: str, lease_s: float = 120.0) -> int:
        """Let the claims of a job run for `lease_s` seconds from now; how many there are."""
        with self._database.writing() as session:
            return claims.renew(session, job_id, lease_s)

    def release(self, job_id: str) -> int:
        """Drop the claims of a job; how many there were."""
        with self._database.writing() as session:
            return claims.drop(session, job_id)

    def finish(self, trial: Trial) -> bool:
        """Store a trial and drop its claim. False where it was there already."""
        check_trial(trial)
        with self._database.writing() as session:
            ensure_keys(session, [trial.key])
            new = trial_rows.add_trial(session, trial)
            session.execute(
                sa.delete(ClaimRow).where(
                    ClaimRow.key_id == key_id(trial.key), ClaimRow.candidate == trial.candidate
                )
            )
            return new

    # trials

    def add_trials(self, trials: Sequence[Trial]) -> None:
        """Store finished trials, failed ones too, all or none. Their workloads must be stored."""
        for trial in trials:
            check_trial(trial)
        with self._database.writing() as session:
            ensure_keys(session, (t.key for t in trials))
            for trial in trials:
                trial_rows.add_trial(session, trial)

    def trials(self, key: TrialKey, *, limit: int | None = None) -> list[Trial]:
        """Trials of exactly `key`: working ones, fastest first, then the others."""
        with self._database.reading() as session:
            return trial_rows.find_trials(session, key, limit)

    def best(self, key: TrialKey) -> Trial | None:
        """The fastest working trial of exactly `key`, or None."""
        with self._database.reading() as session:
            return trial_rows.fastest(session, key)

    def finished(self, keys: Iterable[TrialKey]) -> dict[TrialKey, list[Finished]]:
        """What was tried under each of `keys`, oldest first, without traces and samples."""
        by_id = {key_id(key): key for key in keys}
        found: dict[TrialKey, list[Finished]] = {key: [] for key in by_id.values()}
        cheap = [getattr(TrialRow, name) for name in Finished._fields]
        with self._database.reading() as session:
            for some in chunks(list(by_id)):
                wanted = sa.select(TrialRow.key_id, *cheap).where(TrialRow.key_id.in_(some))
                for name, *values in session.execute(
                    wanted.order_by(TrialRow.created_at, TrialRow.id)
                ):
                    found[by_id[name]].append(Finished(*values))
        return found

    def newer_trials(self, keys: Iterable[TrialKey], time: str) -> int:
        """How many trials of `keys` were stored after `time` (as `created_at` has it)."""
        newer = 0
        with self._database.reading() as session:
            for some in chunks([key_id(key) for key in keys]):
                counted = sa.select(sa.func.count()).where(
                    TrialRow.key_id.in_(some), TrialRow.created_at > time
                )
                newer += session.scalar(counted) or 0
        return newer

    def keys(self, **parts: str) -> list[TrialKey]:
        """The stored keys that have these parts: `keys(target=..., hardware=...)`."""
        alike = [getattr(TuningKeyRow, part) == value for part, value in parts.items()]
        with self._database.reading() as session:
            rows = session.scalars(sa.select(TuningKeyRow).where(*alike).order_by(TuningKeyRow.id))
            return [key_of(row) for row in rows]

    def neighbours(self, key: TrialKey, *, limit: int = 64) -> list[Trial]:
        """The fastest trials of this kernel under other keys: to seed a search and no more.

        Other machines, numbers of cores and threads, and versions; the instruction set is the same.
        """
        with self._database.reading() as session:
            return trial_rows.neighbours(session, key, limit)

    def count(self, keys: Iterable[TrialKey] | None = None) -> dict[str, int]:
        """How many workloads, trials and claims there are: under `keys`, or altogether."""
        with self._database.reading() as session:
            if keys is None:
                return {
                    name: session.scalar(sa.select(sa.func.count()).select_from(row)) or 0
                    for name, row in (
                        ("workloads", WorkloadRow),
                        ("trials", TrialRow),
                        ("claims", ClaimRow),
                    )
                }
            wanted = {key_id(key): key for key in keys}
            return {
                "workloads": len({key.workload_hash for key in wanted.values()}),
                "trials": claims.count_trials(session, list(wanted)),
                "claims": claims.count_claims(session, list(wanted)),
            }

    # winners and cost models

    def add_winners(self, winners: Sequence[Winner]) -> None:
        """Store verdicts, all or none."""
        with self._database.writing() as session:
            verdicts.add_winners(session, winners)

    def winner(self, key: TrialKey) -> Winner | None:
        """The newest verdict on exactly `key`."""
        return self.winners([key]).get(key)

    def winners(self, keys: Iterable[TrialKey]) -> dict[TrialKey, Winner]:
        """The newest verdict on each of `keys` that has one."""
        with self._database.reading() as session:
            return verdicts.winners(session, keys)

    def save_cost_model(
        self,
        target: str,
        tvm_version: str,
        schedule_version: str,
        kind: str,
        data: bytes,
        trials: int,
    ) -> None:
        """Keep a cost model (bytes of its library's own format, never a pickle) in place of its
        predecessor; `trials` says how many it was trained on."""
        with self._database.writing() as session:
            verdicts.save_cost_model(
                session, (target, tvm_version, schedule_version, kind), data, trials
            )

    def load_cost_model(
        self, target: str, tvm_version: str, schedule_version: str, kind: str
    ) -> bytes | None:
        """The kept cost model of exactly that target and those versions."""
        with self._database.reading() as session:
            return verdicts.load_cost_model(session, (target, tvm_version, schedule_version, kind))
