"""First layers that read a channels-first image."""

from __future__ import annotations

import numpy as np

from lepton_tvm.ir.graph import Array
from lepton_tvm.kernels.image import Image

# batch, height, width, channels, filters, kernel, strides, padding, dilation
LAYERS = {
    "7x7 stride 2": (1, 23, 31, 3, 33, (7, 7), (2, 2), (3, 3, 3, 3), (1, 1)),
    "3x3 asymmetric": (2, 9, 16, 3, 8, (3, 3), (2, 2), (0, 0, 1, 1), (1, 1)),
    "5x3 dilated": (1, 12, 17, 1, 20, (5, 3), (1, 1), (4, 2, 4, 2), (2, 2)),
    "4 channels, no padding": (1, 5, 40, 4, 16, (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
    "wide padding": (1, 4, 5, 2, 16, (3, 3), (1, 1), (2, 20, 0, 9), (1, 1)),
}


def packed_image(x: Array, image: Image) -> Array:
    """What `pack_image` makes of an NHWC image, by NumPy."""
    s = image.conv
    bytes_ = 4 if s.dot > 1 else s.channels
    shape = (s.batch, image.lines, image.pitch, bytes_)
    made = np.full(shape, s.pad_value, dtype=x.dtype)
    top = s.padding[0] + 1
    made[:, top : top + s.height, : s.width] = 0
    made[:, top : top + s.height, : s.width, : s.channels] = x
    if s.dot > 1:
        return made.view("<i4").reshape(s.batch, 1, image.lines, image.pitch)
    return np.ascontiguousarray(made.transpose(0, 3, 1, 2))
