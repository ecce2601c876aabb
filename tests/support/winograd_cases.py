"""Shapes of convolutions for Winograd's method."""

from __future__ import annotations

# batch, height, width, padding, channels and filters in registers
WINOGRAD_SHAPES = [
    (1, 8, 8, (1, 1, 1, 1), 1, 1),
    (2, 5, 9, (1, 1, 1, 1), 1, 2),
    (1, 7, 13, (0, 0, 0, 0), 2, 3),
    (3, 6, 3, (2, 0, 1, 2), 1, 1),
    (1, 1, 1, (1, 1, 1, 1), 2, 1),
]
