"""Templates for NVIDIA GPUs, in the order in which they are asked.

What they make is compiled and emulated in the tests; it was never run on a GPU.
"""

from __future__ import annotations

from lepton_tvm.schedules.base import ScheduleRule
from lepton_tvm.schedules.cuda.elementwise import Elementwise
from lepton_tvm.schedules.cuda.gemm_simt import ThreadProduct
from lepton_tvm.schedules.cuda.gemm_tensor import TensorProduct
from lepton_tvm.schedules.cuda.reduction import Reduction

__all__ = ["RULES"]

#: The order is the policy: the first rule that does not answer None schedules the function.
RULES: tuple[ScheduleRule, ...] = (
    TensorProduct(),
    ThreadProduct(),
    Elementwise(),
    Reduction(),
)
