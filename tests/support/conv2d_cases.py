"""Shapes of convolutions that several kinds of kernels are tried with."""

from __future__ import annotations

import dataclasses

from lepton_tvm.kernels.conv2d import ConvShape
from lepton_tvm.kernels.register_tile import RegisterTile, choose_channel_tile, choose_tile
from lepton_tvm.targets import ISAS, Level

# kernel, strides, padding (top, left, bottom, right), dilation
WINDOWS = {
    "3x3 same": ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "3x3 stride 2, asymmetric": ((3, 3), (2, 2), (0, 1, 1, 0), (1, 1)),
    "1x3 stride 1x2": ((1, 3), (1, 2), (0, 1, 0, 1), (1, 1)),
    "5x5 same": ((5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
    "3x3 dilated": ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    "1x1 stride 2": ((1, 1), (2, 2), (0, 0, 0, 0), (1, 1)),
    "2x2 valid": ((2, 2), (1, 1), (0, 0, 0, 0), (1, 1)),
}


# batch, height, width, channels, output channels
SIZES = [(1, 7, 9, 3, 10), (2, 5, 13, 5, 24), (1, 6, 113, 8, 40), (1, 5, 5, 17, 1)]


def case(
    window: str, size: tuple[int, ...], isa: str | Level, dot: int, groups: int
) -> tuple[ConvShape, RegisterTile]:
    kernel, strides, padding, dilation = WINDOWS[window]
    n, h, w, c, k = size
    level = ISAS[isa] if isinstance(isa, str) else isa
    shape = ConvShape(
        n, h, w, c, k, kernel, strides, padding, dilation, groups, dot,
        rows=1, block=1, pad_value=3 if dot > 1 else 0,
    )  # fmt: skip
    depthwise = groups == c == k
    if groups == 1:
        tile = choose_tile(shape.out_width, k, level, dot)
    else:
        tile = choose_channel_tile(shape.out_width, c if depthwise else k // groups, level)
    return dataclasses.replace(shape, rows=tile.rows, block=tile.channels), tile
