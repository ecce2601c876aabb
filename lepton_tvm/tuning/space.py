"""The candidates of a task, which a search may try: plans times answers to choice points."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lepton_tvm.kernels.kernel_plan import KernelPlan

__all__ = ["ZERO_TRIAL", "Candidate", "Questions", "Space", "candidate_text"]

#: Candidates of one plan that are looked at; larger spaces are sampled.
_MOST_CANDIDATES = 256

#: Choice points in the order in which they were asked: name -> (answers, default).
Questions = Mapping[str, tuple[tuple[int, ...], int]]


def candidate_text(decisions: Mapping[str, int]) -> str:
    """The decisions as text that is the same wherever it is made: what identifies a trial."""
    return json.dumps(dict(sorted(decisions.items())), separators=(",", ":"))


#: The schedule that compiling without a search takes.
ZERO_TRIAL = candidate_text({})


@dataclass(frozen=True)
class Candidate:
    """One schedule of a task: which of its plans, and the choices that differ from the default."""

    plan: int
    decisions: Mapping[str, int] = field(hash=False)

    @property
    def text(self) -> str:
        """What identifies it among the candidates of its task."""
        return candidate_text(self.decisions)

    @property
    def choices(self) -> dict[str, int]:
        """The decisions that the schedule takes; the others are the plan's."""
        return {n: v for n, v in self.decisions.items() if n not in KernelPlan.names}


@dataclass
class Space:
    """All candidates of one task.

    A template's later questions may depend on its first, such as which loop goes outermost, and on
    the plan. `asked` holds what it asked, in order, by plan and by the first answer: name ->
    (answers, default). Where nothing was built yet for these two, the zero-trial plan with
    the same answer, and then the zero-trial schedule, stand in.
    """

    plans: Sequence[Mapping[str, int]]
    asked: dict[tuple[int, int | None], Questions] = field(default_factory=dict)
    #: Plans that are left out: their kernels would need other ones around them.
    dropped: set[int] = field(default_factory=set)
    #: Grows when something new is known about the candidates.
    version: int = 0
    _zero: Questions = field(default_factory=dict)

    def candidates(self, rng: np.random.Generator) -> list[Candidate]:
        """Every candidate, plans in the order of their estimates; large spaces are sampled."""
        made = []
        for plan in (p for p in range(len(self.plans)) if p not in self.dropped):
            for questions in self._questions(plan):
                made += [self._candidate(plan, answer) for answer in _answers(questions, rng)]
        return made

    def candidate(self, decisions: Mapping[str, int]) -> Candidate | None:
        """The candidate with these decisions, as a trial holds them; None for an unknown plan."""
        wanted = {n: v for n, v in decisions.items() if n in KernelPlan.names}
        if not wanted:
            return Candidate(0, dict(decisions))
        plans = [i for i, plan in enumerate(self.plans) if dict(plan) == wanted]
        return Candidate(plans[0], dict(decisions)) if plans else None

    def from_text(self, text: str) -> Candidate | None:
        """The candidate that `candidate_text` was made of; None for an unknown plan."""
        return self.candidate(json.loads(text))

    def learn(self, candidate: Candidate, asked: Questions) -> None:
        """Note what the template asked when it scheduled `candidate`."""
        first = next(iter(asked), None)
        answer = None
        if first is not None:
            answer = candidate.decisions.get(first, asked[first][1])
        if self.asked.get((candidate.plan, answer)) != dict(asked):
            self.asked[candidate.plan, answer] = dict(asked)
            self.version += 1
        if not candidate.decisions:
            self._zero = dict(asked)

    def drop(self, plan: int) -> None:
        """Leave the candidates of a plan out from now on."""
        self.dropped.add(plan)
        self.version += 1

    def _questions(self, plan: int) -> Iterator[Questions]:
        """The questions for a plan, once for each answer to the first, which is then fixed."""
        if not self._zero:
            yield {}
            return
        first, (answers, default) = next(iter(self._zero.items()))
        for answer in (default, *(a for a in answers if a != default)):
            known = self.asked.get((plan, answer)) or self.asked.get((0, answer)) or self._zero
            yield {**known, first: ((answer,), default)}

    def _candidate(self, plan: int, choices: Mapping[str, int]) -> Candidate:
        return Candidate(plan, {**(self.plans[plan] if plan else {}), **choices})


def _answers(asked: Questions, rng: np.random.Generator) -> list[dict[str, int]]:
    """Combinations of answers, the defaults left out; the one with the fewest choices first."""
    names = list(asked)
    options = [sorted(found, key=lambda c: c != default) for found, default in asked.values()]
    count = math.prod(len(o) for o in options)
    if count <= _MOST_CANDIDATES:
        combinations = list(itertools.product(*options))
    else:
        drawn = {tuple(int(rng.choice(o)) for o in options) for _ in range(_MOST_CANDIDATES)}
        combinations = [tuple(o[0] for o in options), *sorted(drawn)]
    made = [
        {n: v for n, v in zip(names, values, strict=True) if v != asked[n][1]}
        for values in combinations
    ]
    return [dict(items) for items in dict.fromkeys(tuple(m.items()) for m in made)]
