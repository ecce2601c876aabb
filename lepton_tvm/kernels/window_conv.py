"""Convolutions of few channels per group (depthwise, grouped) as plain sums, for GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import te

from lepton_tvm.ir.bfloat16 import element_type
from lepton_tvm.kernels.gemm import Window
from lepton_tvm.kernels.notes import KernelNotes

__all__ = ["WindowConv", "window_conv"]


@dataclass(frozen=True)
class WindowConv:
    """A grouped NHWC convolution: the window, output channels and groups."""

    window: Window
    channels: int
    groups: int

    @property
    def depth(self) -> int:
        """Input channels of a group."""
        return self.window.image[3] // self.groups

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole operation."""
        n, h, w = self.window.out
        return (
            n * h * w * self.channels * self.depth * self.window.kernel[0] * self.window.kernel[1]
        )


def window_conv(x: te.Tensor, weight: te.Tensor, shape: WindowConv) -> te.Tensor:
    """x [N, H, W, C] and weights [KH, KW, C/groups, K] -> [N, OH, OW, K], float32 or int32.

    The reduction block carries `KernelNotes`; its sums are the result's type.
    """
    s = shape
    total = "int32" if element_type(x) == "uint8" else "float32"
    kh, kw = (te.reduce_axis((0, k), name) for k, name in zip(s.window.kernel, "hw", strict=True))
    c = te.reduce_axis((0, s.depth), "c")
    per_group = s.channels // s.groups

    def term(n: Any, oh: Any, ow: Any, k: Any) -> Any:
        channel = k // per_group * s.depth + c
        value = s.window.at(x, (n, oh, ow), (kh, kw), channel).astype(total)
        return te.sum(value * weight[kh, kw, c, k].astype(total), axis=[kh, kw, c])

    operand = {"uint8": "int8"}.get(element_type(x), element_type(x))
    return te.compute(
        (*s.window.out, s.channels),
        term,
        name="product",
        attrs=KernelNotes("window_conv", operand, s.macs).to_attrs(),
    )
