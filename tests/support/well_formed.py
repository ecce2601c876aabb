"""A hook that runs TVM's well-formed checks on the module after every phase of the compiler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tvm
from tvm import relax, s_tir, tirx

from lepton_tvm.compiler.phase import watched

__all__ = ["WellFormed", "every_phase_is_well_formed"]

# TVM's own step for GPUs leaves buffers of fragments declared outside the scope of their uses;
# CUDA's code generation, which declares them itself, takes that.
_BREAKS = "infer-fragments"


class WellFormed:
    """Raises AssertionError, with the phase's name, where a module is not well formed.

    Functions that no phase has touched since their last check are not checked again.
    """

    def __init__(self) -> None:
        self._checked: dict[int, Any] = {}
        self._broken = False

    def __call__(self, index: int, name: str, module: tvm.IRModule) -> None:
        """See the module after a phase."""
        self._broken = name == _BREAKS or (self._broken and index > 1)
        try:
            self._check(module)
        except (RuntimeError, ValueError, TypeError) as error:
            said = str(error).strip().splitlines()[-1]
            raise AssertionError(f"ill-formed after phase {index}, {name}: {said}") from error

    def _check(self, module: tvm.IRModule) -> None:
        new = [f for f in module.functions.values() if f.__chandle__() not in self._checked]
        if any(isinstance(f, relax.Function) for f in new):
            relax.analysis.well_formed(module)
        if not self._broken:
            for func in (f for f in new if isinstance(f, tirx.PrimFunc)):
                s_tir.analysis.verify_well_formed(func)
        # a function that is kept here cannot leave its address to another one
        self._checked.update((f.__chandle__(), f) for f in new)


@pytest.fixture(autouse=True)
def every_phase_is_well_formed() -> Iterator[None]:
    """Check the module after every phase that a test runs; folders ask for it in `conftest.py`."""
    with watched(WellFormed()):
        yield
