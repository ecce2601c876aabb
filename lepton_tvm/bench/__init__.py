"""This compiler's float32 and int8 beside other engines, each in its own process."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from lepton_tvm.bench.bench_result import BenchResult, EngineTime
from lepton_tvm.bench.engines import ENGINES
from lepton_tvm.bench.run_bench import bench

__all__ = ["ENGINES", "BenchResult", "EngineTime", "bench"]


class _CallableModule(ModuleType):
    """`lepton_tvm.bench` names this module and, in the Python surface, the function in it.

    Importing a submodule binds its name in the package, so a plain function there would be lost as
    soon as anybody imports this module.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> BenchResult:
        return bench(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
