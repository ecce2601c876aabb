"""All that the tuning of one model works with: its tasks, who proposes and who tries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lepton_tvm.compiler.compile import variant_name
from lepton_tvm.compiler.tuned import family_version, trial_key
from lepton_tvm.db import TrialKey
from lepton_tvm.errors import InputError
from lepton_tvm.model import Model
from lepton_tvm.tuning.cost_model import KIND, CostModel
from lepton_tvm.tuning.search import Search
from lepton_tvm.tuning.space import ZERO_TRIAL, Space
from lepton_tvm.tuning.task_state import TaskState, TrialSummary, summary_of
from lepton_tvm.tuning.tasks import Tasks
from lepton_tvm.tuning.trials import Trials
from lepton_tvm.tuning.tune_options import TuneOptions
from lepton_tvm.tuning.workshop import Workshop

__all__ = ["ModelTuning", "begin"]

# Neighbours' best schedules that are tried first, for each kernel.
_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class ModelTuning:
    """The tuning of one model on one kind of machine. `keys` are those of its tasks, by hash."""

    model: Model
    options: TuneOptions
    shop: Workshop
    tasks: Tasks
    keys: Mapping[str, TrialKey]
    search: Search
    trials: Trials

    @property
    def states(self) -> Mapping[str, TaskState]:
        """What was tried of each task, by hash."""
        return self.search.states

    def save_cost_model(self, new: int) -> None:
        """Learn from all trials and store what was learnt; nothing where none of them is new."""
        if not new:
            return
        self.search.learn()
        data = self.search.model.to_bytes()
        if data is None:
            return
        key = next(iter(self.keys.values()))
        self.shop.database.tuning.save_cost_model(
            key.target, key.tvm_version, family_version(self.shop.target.family), KIND, data,
            self.search.tried(),
        )  # fmt: skip


def begin(model: Model, options: TuneOptions, shop: Workshop) -> ModelTuning:
    """Lower the model, write its tasks down, and take over what is known of them.

    Raises InputError for a model without kernels.
    """
    tasks = Tasks(model, shop.target, shop.folder, winograd=options.winograd, seed=options.seed)
    if not tasks.all:
        raise InputError(
            f"model {model.name} has no kernel, so there is nothing to tune: compile it"
        )
    keys = {
        h: trial_key(h, task.name, shop.target, shop.hardware, options.threads)
        for h, task in tasks.all.items()
    }
    cost_model = _stored_cost_model(shop, next(iter(keys.values())))
    states = [TaskState(task, Space(task.plans)) for task in tasks.all.values()]
    lent = [(state.task, _neighbours(shop, keys[state.task.hash], state)) for state in states]
    search = Search(states, cost_model, np.random.default_rng(options.seed), lent)
    _write_down(model, tasks, shop, next(iter(keys.values())).target)
    trials = Trials(shop=shop, options=options, tasks=tasks, search=search, keys=keys)
    return ModelTuning(
        model=model, options=options, shop=shop, tasks=tasks, keys=keys, search=search,
        trials=trials,
    )  # fmt: skip


def _stored_cost_model(shop: Workshop, key: TrialKey) -> CostModel:
    version = family_version(shop.target.family)
    stored = shop.database.tuning.load_cost_model(key.target, key.tvm_version, version, KIND)
    return CostModel.from_bytes(stored) if stored else CostModel()


def _neighbours(shop: Workshop, key: TrialKey, state: TaskState) -> Sequence[TrialSummary]:
    """What was found elsewhere or by other versions: seeds of the search, never results."""
    lent = [summary_of(trial) for trial in shop.database.tuning.neighbours(key)]
    for trial in sorted(lent, key=lambda t: -t.speedup)[:_SEEDS]:
        candidate = state.space.from_text(trial.candidate)
        if candidate is not None and trial.speedup > 1.0 and trial.candidate != ZERO_TRIAL:
            state.seeds.append(candidate)
    return lent


def _write_down(model: Model, tasks: Tasks, shop: Workshop, target: str) -> None:
    """Store the model and its tasks, for who looks at the database while it is searched."""
    log = shop.database.tuning
    log.add_workloads([(t.hash, t.name, tasks.lowering(t, 0).module) for t in tasks.all.values()])
    known = shop.database.add_model(
        model.name,
        model.source_sha256,
        [t.to_json() for t in model.inputs],
        [t.to_json() for t in model.outputs],
    )
    calls = {t.hash: t.calls for t in tasks.all.values()}
    log.add_tasks(known.id, variant_name(model), target, calls)
