"""Which schemes a benchmark times: those asked for, or all that the target has kernels for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lepton_tvm.errors import TargetError
from lepton_tvm.targets import ISAS, Target

if TYPE_CHECKING:
    from lepton_tvm.passes.quantize.schemes import Scheme

__all__ = ["known_schemes", "wanted_schemes"]


def known_schemes() -> list[Scheme]:
    """All that a model can be compiled in, the widest first."""
    from lepton_tvm.passes.quantize.schemes import SCHEMES

    return sorted(SCHEMES.values(), key=lambda scheme: -scheme.weight_bits[0])


def wanted_schemes(asked: Sequence[str] | None, target: Target) -> tuple[Scheme, ...]:
    """The widest first; `asked` holds names, None asks for all that run on `target`.

    Raises TargetError for one that the target has no instructions for.
    """
    known = known_schemes()
    if asked is None:
        return tuple(s for s in known if s.runs_on(target.level))
    wanted = tuple(s for s in known if s.name in asked)
    for scheme in wanted:
        if scheme.runs_on(target.level):
            continue
        having = ", ".join(f"x86:{isa.name}" for isa in ISAS.values() if scheme.runs_on(isa))
        raise TargetError(
            f"target {target} has no {scheme.name} instructions ({having} have): leave "
            f"{scheme.name} out of the precisions, or run on a machine that has them"
        )
    return wanted
