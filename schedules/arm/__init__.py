"""Templates for 64-bit ARM, in the order in which they are asked."""

from __future__ import annotations

from lepton_tvm.schedules.arm.arm_dot_units import dot_unit
from lepton_tvm.schedules.arm.mmla_conv2d import MmlaConv2d
from lepton_tvm.schedules.arm.mmla_matmul import MmlaMatmul
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

__all__ = ["RULES"]

#: The order is the policy: the first rule that does not answer None schedules the function.
RULES: tuple[ScheduleRule, ...] = (
    MmlaConv2d("arm.matrix_conv2d"),
    Conv2d("arm.conv2d", dot_unit),
    WinogradConv2d("arm.winograd_conv2d", dot_unit),
    DepthwiseConv2d("arm.depthwise_conv2d", dot_unit),
    MmlaMatmul("arm.matrix_matmul"),
    Matmul("arm.matmul", dot_unit),
    BatchMatmul("arm.batch_matmul"),
    WithUpstream("arm.elementwise", Elementwise("arm.elementwise"), samples=1),
    WithUpstream("arm.rows", Rows("arm.rows")),
    WithUpstream("arm.reduction", Reduction("arm.reduction")),
    WithUpstream("arm.upstream"),
)
