"""Templates for x86, in the order in which they are asked."""

from __future__ import annotations

from lepton_tvm.schedules.base import ScheduleRule
from lepton_tvm.schedules.cpu.batch_matmul import BatchMatmul
from lepton_tvm.schedules.cpu.conv2d import Conv2d
from lepton_tvm.schedules.cpu.depthwise import DepthwiseConv2d
from lepton_tvm.schedules.cpu.elementwise import Elementwise
from lepton_tvm.schedules.cpu.matmul import Matmul
from lepton_tvm.schedules.cpu.reduction import Reduction
from lepton_tvm.schedules.cpu.rows import Rows
from lepton_tvm.schedules.cpu.winograd import WinogradConv2d
from lepton_tvm.schedules.upstream import WithUpstream
from lepton_tvm.schedules.x86.amx import AmxProduct
from lepton_tvm.schedules.x86.x86_dot_units import dot_unit

__all__ = [
    "BATCH_MATMUL",
    "CONV2D",
    "DEPTHWISE_CONV2D",
    "ELEMENTWISE",
    "MATMUL",
    "REDUCTION",
    "ROWS",
    "RULES",
    "WINOGRAD_CONV2D",
]

CONV2D = Conv2d("x86.conv2d", dot_unit)
WINOGRAD_CONV2D = WinogradConv2d("x86.winograd_conv2d", dot_unit)
DEPTHWISE_CONV2D = DepthwiseConv2d("x86.depthwise_conv2d", dot_unit)
MATMUL = Matmul("x86.matmul", dot_unit)
BATCH_MATMUL = BatchMatmul("x86.batch_matmul")
ELEMENTWISE = Elementwise("x86.elementwise")
ROWS = Rows("x86.rows")
REDUCTION = Reduction("x86.reduction")

#: The order is the policy: the first rule that does not answer None schedules the function.
RULES: tuple[ScheduleRule, ...] = (
    AmxProduct(),
    CONV2D,
    WINOGRAD_CONV2D,
    DEPTHWISE_CONV2D,
    MATMUL,
    BATCH_MATMUL,
    WithUpstream(ELEMENTWISE.name, ELEMENTWISE, samples=1),
    WithUpstream(ROWS.name, ROWS),
    WithUpstream(REDUCTION.name, REDUCTION),
    WithUpstream("x86.upstream"),
)
