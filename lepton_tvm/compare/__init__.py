"""Re-running stored artifacts against their float baseline."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from lepton_tvm.compare.comparison import Comparison, Variant
from lepton_tvm.compare.comparison_history import History, history
from lepton_tvm.compare.run_compare import compare

__all__ = ["Comparison", "History", "Variant", "compare", "history"]


class _CallableModule(ModuleType):
    """`lepton_tvm.compare` names this module and, in the Python surface, the function in it.

    Importing a submodule binds its name in the package, so a plain function there would be lost as
    soon as anybody imports this module.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Comparison:
        return compare(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
