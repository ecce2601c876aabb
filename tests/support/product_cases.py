"""Shapes of products that several kinds of kernels are tried with."""

from __future__ import annotations

# leading dimensions, depth, columns
PRODUCTS = [
    ((1,), 3, 10),
    ((2, 5, 13), 5, 24),
    ((1, 37), 64, 1000),
    ((5, 5), 17, 1),
    ((1, 7, 7), 32, 72),
    ((49,), 66, 33),
]
