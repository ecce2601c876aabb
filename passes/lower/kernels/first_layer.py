"""Finds convolutions that can read a channels-first image."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax

from lepton_tvm.ir.graph import Expr, dtype_of, op_name
from lepton_tvm.kernels.conv2d import ConvShape
from lepton_tvm.kernels.image import Image
from lepton_tvm.targets import Level

__all__ = ["first_layer"]

_MOST_CHANNELS = 4


def first_layer(
    x: Expr, shape: ConvShape, lookup: Callable[[relax.Var], Expr | None], isa: Level
) -> tuple[Expr, Image] | None:
    """The channels-first image that `x` turns around and how to pad it, or None.

    Integers need VNNI, whose instruction takes all bytes of a pixel; bfloat16 is not handled.
    """
    made = lookup(x) if isinstance(x, relax.Var) else None
    if made is None or op_name(made) != "relax.permute_dims":
        return None
    if [int(axis) for axis in made.attrs.axes or ()] != [0, 2, 3, 1]:
        return None
    if shape.groups > 1 or shape.channels > _MOST_CHANNELS:
        return None
    kinds = {"float32": shape.dot == 1, "uint8": shape.dot == 4 and isa.dot4}
    if not kinds.get(dtype_of(x), False):
        return None
    return made.args[0], Image(shape)
