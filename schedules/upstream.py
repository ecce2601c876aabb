"""MetaSchedule's own rules, as choices of a search where a template decides next to nothing.

TVM's rules sample a schedule from a seed. The seed is the decision: the same seed, function and
target give the same schedule, so it is kept and replayed like any other choice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.schedules.base import Choices, ScheduleRule, new_schedule
from lepton_tvm.targets import Target

__all__ = ["WithUpstream", "upstream_schedule"]

#: The choice point: 0 takes the template, another number is the seed of a sample.
SAMPLE = "upstream_sample"
_INTRINSICS = "tvm.s_tir.tensor_intrin"


@dataclass(frozen=True)
class WithUpstream:
    """A template, or one of `samples` samples of MetaSchedule's rules in its place.

    Without a template (`rule` None) it takes every function that is asked for with a sample, and
    answers None otherwise: TVM's default schedule is left.
    """

    name: str
    rule: ScheduleRule | None = None
    samples: int = 24

    def apply(self, func: tvm.tirx.PrimFunc, target: Target, choices: Choices) -> Schedule | None:
        """Schedule `func`, or None."""
        default = self.rule.apply(func, target, choices) if self.rule is not None else None
        if self.rule is not None and default is None:
            return None
        seed = choices.pick(default or new_schedule(func), SAMPLE, range(self.samples + 1), 0)
        return upstream_schedule(func, target, seed) if seed else default


def upstream_schedule(func: tvm.tirx.PrimFunc, target: Target, seed: int) -> Schedule:
    """A schedule of `func`, as `main`, by MetaSchedule's rules for CPUs; `seed` decides it.

    Raises ValueError where they give none.
    """
    with _no_tensor_intrinsics():
        from tvm.s_tir import meta_schedule as ms
        from tvm.s_tir.meta_schedule import postproc, schedule_rule

        rules = [
            schedule_rule.AutoInline(
                into_producer=False,
                into_consumer=True,
                inline_const_tensor=True,
                disallow_if_then_else=True,
                require_injective=True,
                require_ordered=True,
                disallow_op=["tirx.exp"],
            ),
            schedule_rule.AddRFactor(max_jobs_per_core=16, max_innermost_factor=64),
            schedule_rule.MultiLevelTiling(structure="SSRSRS", max_innermost_factor=64),
            schedule_rule.ParallelizeVectorizeUnroll(
                max_jobs_per_core=16,
                max_vectorize_extent=64,
                unroll_max_steps=[0, 16, 64, 512],
                unroll_explicit=True,
            ),
            schedule_rule.RandomComputeLocation(),
        ]
        last = [
            postproc.DisallowDynamicLoop(),
            postproc.RewriteParallelVectorizeUnroll(),
            postproc.RewriteReductionBlock(),
        ]
        context = ms.TuneContext(
            tvm.IRModule({"main": func.with_attr("global_symbol", "main")}),
            target=target.tvm,
            space_generator=ms.space_generator.PostOrderApply(
                sch_rules=rules, postprocs=last, mutator_probs={}
            ),
            search_strategy="replay-trace",
            rand_state=seed,
            num_threads=1,
        )
        spaces = list(context.generate_design_space())
    if not spaces:
        raise ValueError("MetaSchedule's rules give no schedule")
    sch = spaces[seed % len(spaces)]
    if not all(step.apply(sch) for step in context.space_generator.postprocs):
        raise ValueError("MetaSchedule's rules give a schedule that its own checks refuse")
    return sch


@contextmanager
def _no_tensor_intrinsics() -> Iterator[None]:
    """Keep TuneContext from importing TVM's tensor intrinsics, which takes half a minute.

    None of the rules above uses one.
    """
    if _INTRINSICS in sys.modules:
        yield
        return
    sys.modules[_INTRINSICS] = ModuleType(_INTRINSICS)
    try:
        yield
    finally:
        del sys.modules[_INTRINSICS]
