"""What there is to tune in a model: its distinct kernels, and other ways to lower each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import tirx

from lepton_tvm.compiler.fused_kernels import kernel_calls, kernel_hash, ops_of_calls
from lepton_tvm.compiler.kernel_info import KernelInfo, describe_kernels
from lepton_tvm.compiler.pipeline import fuse
from lepton_tvm.errors import TrialError
from lepton_tvm.ir.graph import Array, const_array
from lepton_tvm.kernels.kernel_plan import PlansByOp
from lepton_tvm.model import Model
from lepton_tvm.passes.lower.int8.lower_int8 import LowerInt8
from lepton_tvm.targets import Target
from lepton_tvm.tuning.activations import activations
from lepton_tvm.workers import Argument

__all__ = ["Lowering", "Task", "Tasks"]

Decisions = Mapping[str, int]


@dataclass(frozen=True)
class Lowering:
    """What a plan makes of a task: a loop nest, as JSON, and files with the arguments of a call."""

    hash: str
    module: str = field(repr=False)
    arguments: tuple[Argument, ...] = field(repr=False)


@dataclass(frozen=True)
class Task:
    """A distinct kernel of the model.

    `calls` counts how often one inference runs it. `plans` are the decisions of the lowerings that
    are worth a trial, the zero-trial one first; one empty plan where nothing can be chosen.
    """

    hash: str
    info: KernelInfo
    call: int
    plans: tuple[Decisions, ...]

    @property
    def name(self) -> str:
        """The kernel's name in the model."""
        return self.info.name

    @property
    def calls(self) -> int:
        """How often one inference runs it."""
        return self.info.calls


class Tasks:
    """The tasks of one model for one target, and their lowerings, made when asked for.

    `folder` takes the arguments of kernels: packed weights as the model has them, and activations
    drawn with `seed`, which are the same for all lowerings of a task.
    """

    def __init__(
        self, model: Model, target: Target, folder: Path, *, winograd: bool = True, seed: int = 0
    ) -> None:
        self._target, self._folder = target, folder
        # every lowering begins with this, which finds nothing to do the next time
        self._module, _ = LowerInt8()(model.module)
        self._winograd, self._seed = winograd, seed
        self._lowerings: dict[tuple[str, int], Lowering] = {}
        seen = PlansByOp()
        fused = fuse(self._module, target, winograd=winograd, plans=seen).module
        self._ops = ops_of_calls(fused, seen.weights)
        infos = {k.name: k for k in describe_kernels(fused, fused, [], target)}
        self.all: dict[str, Task] = {}
        #: The task of every call of an inference, in order.
        self.sequence: list[str] = []
        for call, ((name, _), op) in enumerate(zip(kernel_calls(fused), self._ops, strict=True)):
            key = kernel_hash(fused[name])
            self.sequence.append(key)
            if key not in self.all:
                plans = [c.decisions for c in seen.candidates[op]] if op is not None else [{}]
                self.all[key] = Task(key, infos[name], call, tuple(plans))
        #: Bytes of the constants of all calls of an inference.
        self.constants = sum(k.weight_bytes * k.calls for k in infos.values())
        self._keep(fused, [(task, 0) for task in self.all.values()])

    def lowering(self, task: Task, plan: int) -> Lowering:
        """What `prepare` has lowered; plan 0 always is."""
        return self._lowerings[task.hash, plan]

    def comparable(self, task: Task, plan: int) -> bool:
        """Whether a lowering takes the activations that the zero-trial kernel takes.

        The first layer's copy of the picture is as wide as its tile wants; the kernel before it
        makes that copy, and would have to change too.
        """
        wanted, found = (
            [(a.shape, a.dtype) for a in self.lowering(task, p).arguments if not a.constant]
            for p in (0, plan)
        )
        return wanted == found

    def prepare(self, wanted: Iterable[tuple[Task, int]]) -> None:
        """Lower what is wanted and not there yet, as many plans at a time as there are tasks."""
        missing = dict.fromkeys((t.hash, p) for t, p in wanted)
        left = [key for key in missing if key not in self._lowerings]
        while left:
            first: dict[str, int] = {}
            for key, plan in left:
                first.setdefault(key, plan)
            decisions = {}
            for key, plan in first.items():
                op = self._ops[self.all[key].call]
                if op is not None:
                    decisions[op] = self.all[key].plans[plan]
            plans = PlansByOp(decisions)
            fused = fuse(self._module, self._target, winograd=self._winograd, plans=plans)
            self._keep(fused.module, [(self.all[key], plan) for key, plan in first.items()])
            left = [(key, plan) for key, plan in left if first[key] != plan]

    def _keep(self, fused: tvm.IRModule, made: Iterable[tuple[Task, int]]) -> None:
        calls = kernel_calls(fused)
        for task, plan in made:
            name, arguments = calls[task.call]
            func = fused[name].with_attr("global_symbol", "main")
            self._lowerings[task.hash, plan] = Lowering(
                kernel_hash(func),
                tvm.ir.save_json(tvm.IRModule({"main": func})),
                self._arguments(task, plan, func, arguments),
            )

    def _arguments(
        self, task: Task, plan: int, func: tirx.PrimFunc, arguments: Any
    ) -> tuple[Argument, ...]:
        inputs = list(getattr(arguments, "fields", [arguments]))
        made = []
        for index, value in enumerate(inputs):
            constant = const_array(value)
            if constant is not None:
                written = self._write(f"{task.hash}-{plan}-{index}", constant)
                made.append(replace(written, constant=True))
                continue
            drawn = activations(func, index, self._seed + index)
            made.append(self._write(f"{task.hash}-{index}", drawn))
        for buffer in list(func.params)[len(inputs) :]:
            shape = tuple(int(d) for d in buffer.shape)
            made.append(Argument(shape, str(buffer.dtype).removeprefix("T."), None))
        return tuple(made)

    def _write(self, name: str, array: Array) -> Argument:
        path = self._folder / f"{name}.bin"
        if not path.exists():
            try:
                path.write_bytes(np.ascontiguousarray(array).tobytes())
            except OSError as error:
                path.unlink(missing_ok=True)
                raise TrialError(
                    f"cannot keep the arguments of kernels in {self._folder}: "
                    f"{error.strerror or error}; free some space or set TMPDIR"
                ) from error
        return Argument(tuple(array.shape), str(array.dtype), str(path))
