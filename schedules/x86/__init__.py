"""Templates for x86, in the order in which they are asked."""

from __future__ import annotations

from lepton_tvm.schedules.base import ScheduleRule
from lepton_tvm.schedules.x86.amx import AmxProduct
from lepton_tvm.schedules.x86.batch_matmul import BatchMatmul
from lepton_tvm.schedules.x86.conv2d import Conv2d
from lepton_tvm.schedules.x86.depthwise import DepthwiseConv2d
from lepton_tvm.schedules.x86.elementwise import Elementwise
from lepton_tvm.schedules.x86.matmul import Matmul
from lepton_tvm.schedules.x86.reduction import Reduction
from lepton_tvm.schedules.x86.rows import Rows
from lepton_tvm.schedules.x86.winograd import WinogradConv2d

__all__ = ["RULES"]

#: The order is the policy: the first rule that does not answer None schedules the function.
RULES: tuple[ScheduleRule, ...] = (
    AmxProduct(),
    Conv2d(),
    WinogradConv2d(),
    DepthwiseConv2d(),
    Matmul(),
    BatchMatmul(),
    Elementwise(),
    Rows(),
    Reduction(),
)
