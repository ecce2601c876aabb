"""Channel pruning: whole channels leave, so kernels, biases and activations really shrink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tvm

from lepton_tvm.errors import InputError
from lepton_tvm.ir.cost import macs, params
from lepton_tvm.passes.base import PassReport, Skipped
from lepton_tvm.passes.prune.channels.groups import find_groups
from lepton_tvm.passes.prune.channels.importance import NORMS, group_importance
from lepton_tvm.passes.prune.channels.labels import Flow, Ints
from lepton_tvm.passes.prune.channels.propagate import propagate
from lepton_tvm.passes.prune.channels.selection import SCOPES, Decision, Scores, select
from lepton_tvm.passes.prune.channels.shrink import Arrays, kernels, shrink

__all__ = ["Plan", "PruneChannels"]


@dataclass(frozen=True)
class Plan:
    """What is to leave a module: the labels of all its channels and one decision per group."""

    flow: Flow
    decisions: tuple[Decision, ...]

    @property
    def removed(self) -> Ints:
        """All atoms that go."""
        empty = np.empty(0, dtype=np.int64)
        return np.concatenate([empty, *(d.removed for d in self.decisions)])


@dataclass(frozen=True)
class PruneChannels:
    """Remove the least important channels of every dependency group.

    Before: conv2d [3,3,16,64] -> add -> relu -> conv2d [3,3,64,32]
    After:  conv2d [3,3,16,48] -> add -> relu -> conv2d [3,3,48,32]      (ratio=0.25)

    `ratio`: fraction of channels to remove, in (0, 1), of all that may go, ranked together
    (`scope="global"`), or of every group (`"group"`). `round_to`: widths kept are multiples of it.
    `norm`: "l2" or "l1" of the weights, summed over all layers of a group (see `importance.py`).
    Follows additions, concatenations, depthwise and grouped convolutions, squeeze-and-excite gates,
    pooling, flatten, permute, split and slice. Does not handle: channels that reach a graph output,
    a reduction or softmax over themselves, an uneven reshape or an op without a rule; such a group
    stays whole and the report says why. Unlike other passes it removes more when run again.
    """

    name: ClassVar[str] = "prune-channels"

    ratio: float
    round_to: int = 8
    scope: str = "global"
    norm: str = "l2"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise InputError(f"ratio is {self.ratio}, but must be between 0 and 1, both excluded")
        if self.round_to < 1:
            raise InputError(f"round_to is {self.round_to}, but must be at least 1")
        if self.scope not in SCOPES:
            raise InputError(f"unknown scope '{self.scope}'; known: {', '.join(SCOPES)}")
        if self.norm not in NORMS:
            raise InputError(f"unknown norm '{self.norm}'; known: {', '.join(NORMS)}")

    def __call__(self, mod: tvm.IRModule) -> tuple[tvm.IRModule, PassReport]:
        """The smaller module and what became of every group."""
        return self.apply(mod, self.plan(mod))

    def plan(
        self, mod: tvm.IRModule, flow: Flow | None = None, scores: Scores | None = None
    ) -> Plan:
        """Choose the channels; `scores` (group name -> one per atom) replaces the weight norms.

        `flow` is what `propagate(mod)` gave, when that is at hand.
        """
        flow = propagate(mod) if flow is None else flow
        groups = find_groups(flow)
        if scores is None:
            arrays = kernels(mod, flow)
            scores = {g.name: group_importance(flow, arrays, g, self.norm) for g in groups}
        decisions = select(
            groups, scores, ratio=self.ratio, round_to=self.round_to, scope=self.scope
        )
        return Plan(flow, decisions)

    def apply(
        self,
        mod: tvm.IRModule,
        plan: Plan,
        replaced: Arrays | None = None,
        offsets: Arrays | None = None,
    ) -> tuple[tvm.IRModule, PassReport]:
        """Carry out `plan`; `replaced` and `offsets` as in `shrink`."""
        small = shrink(mod, plan.flow, plan.removed, replaced=replaced, offsets=offsets)
        cut = [d for d in plan.decisions if d.removed.size]
        notes = [f"{d.group.name}: {d.group.channels} -> {d.kept_channels} channels" for d in cut]
        if not cut:
            notes.append("no channel was removed; see what was skipped and why")
        skipped = [
            Skipped("channel group", d.group.name, str(d.reason))
            for d in plan.decisions
            if d.reason is not None
        ]
        numbers = {
            "macs_before": macs(mod),
            "macs_after": macs(small),
            "params_before": params(mod),
            "params_after": params(small),
            "channels_before": sum(d.group.channels for d in plan.decisions),
            "channels_after": sum(d.kept_channels for d in plan.decisions),
        }
        report = PassReport(
            self.name, len(cut), tuple(notes), tuple(numbers.items()), tuple(skipped)
        )
        return small, report
