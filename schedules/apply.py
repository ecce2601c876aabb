"""Schedules every PrimFunc of a module by the first rule that takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import tirx

from lepton_tvm.errors import CompileError
from lepton_tvm.schedules.arm import RULES as ARM_RULES
from lepton_tvm.schedules.base import Choices, Defaults, ScheduleRule
from lepton_tvm.schedules.cuda import RULES as CUDA_RULES
from lepton_tvm.schedules.prefetch import insert_prefetch
from lepton_tvm.schedules.x86 import RULES as X86_RULES
from lepton_tvm.targets import Target

__all__ = ["RULES", "Applied", "apply_schedules"]

#: Target family -> its rules in order.
RULES: Mapping[str, Sequence[ScheduleRule]] = {
    "x86": X86_RULES,
    "arm": ARM_RULES,
    "cuda": CUDA_RULES,
}


@dataclass(frozen=True)
class Applied:
    """Which rule scheduled a function (None: TVM's default), and what rules that failed said.

    `trace` is TVM's trace of the rule's schedule.
    """

    function: str
    rule: str | None
    failures: tuple[str, ...] = ()
    trace: Any = field(default=None, repr=False, compare=False)


def apply_schedules(
    mod: tvm.IRModule,
    target: Target,
    choices: Callable[[str], Choices] = lambda function: Defaults(),
) -> tuple[tvm.IRModule, list[Applied]]:
    """A module in which every PrimFunc is scheduled, and what was done to each.

    `choices` gives the decisions for a function by its name. A rule that cannot carry out its
    schedule is passed over, and its message is kept. The module that comes in is not changed.
    """
    mod = mod.clone()
    applied = []
    for gvar, func in list(mod.functions.items()):
        if not isinstance(func, tirx.PrimFunc):
            continue
        scheduled, record = _first_that_fits(gvar.name_hint, func, target, choices(gvar.name_hint))
        applied.append(record)
        mod[gvar] = scheduled.with_attr("tirx.is_scheduled", True)
    return mod, applied


def _first_that_fits(
    name: str, func: tirx.PrimFunc, target: Target, choices: Choices
) -> tuple[tirx.PrimFunc, Applied]:
    if target.family not in RULES:
        raise CompileError(f"there are no schedules for the target family {target.family!r}")
    failures = []
    for rule in RULES[target.family]:
        try:
            sch = rule.apply(func, target, choices)
        except (tvm.s_tir.ScheduleError, ValueError, RuntimeError) as error:
            # a schedule that TVM refuses must not stop the build: the next rule, or the default
            failures.append(f"{rule.name}: {str(error).strip().splitlines()[-1]}")
            continue
        if sch is not None:
            made = insert_prefetch(sch.mod["main"])
            made = made.with_attrs(func.attrs) if func.attrs else made
            return made, Applied(name, rule.name, tuple(failures), sch.trace)
    return func, Applied(name, None, tuple(failures))
