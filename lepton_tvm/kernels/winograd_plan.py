"""Whether a convolution is worth Winograd's transforms, with which tile and how many at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lepton_tvm.kernels.conv2d import ConvShape
from lepton_tvm.kernels.register_tile import (
    RegisterTile,
    dividing_tile,
    tile_cost,
)
from lepton_tvm.kernels.winograd import WinogradShape
from lepton_tvm.targets.family import Level

__all__ = ["WinogradPlan", "is_worth", "winograd_plans"]

# Costs in vector instructions, fitted to ResNet-50's layers on a Zen 4 core. Per tile and register
# of channels: loads, arithmetic and stores of the input's and the output's transform.
_TRANSFORMS = {2: (100, 80), 4: (250, 200)}
# Per 64 bytes: transformed weights that come from memory, the same read again by a later group, and
# frequencies that do not stay in the second-level cache until they are used.
_WEIGHT_LINE, _AGAIN_LINE, _SPILLED_LINE = 16.0, 0.5, 10.0
_LINE = 64
# Frequencies of a group that stay near.
_NEAR = 288 * 1024
# The transforms must bring at least this much, for they cost accuracy and size.
_WORTH = 0.9
# Plans of up to this much of the plain sums' cost are worth a trial, and so many of them.
_TRIED, _MOST_PLANS = 1.3, 6


@dataclass(frozen=True)
class WinogradPlan:
    """The shape of the kernel, its register tile, and its cost in vector instructions."""

    shape: WinogradShape
    tile: RegisterTile
    cost: float


def is_worth(plan: WinogradPlan, isa: Level) -> bool:
    """Whether the plan is so much cheaper than plain sums, by estimate, that it is the default."""
    return plan.cost <= _WORTH * _plain_cost(plan.shape.conv, isa)


def winograd_plans(conv: ConvShape, isa: Level, cores: int) -> list[WinogradPlan]:
    """The plans worth a trial, cheapest first; none where the shape does not fit.

    Only 3x3 filters of stride 1 without groups or dilation, whose channels fill vector registers,
    over single images: TVM refuses the schedule for some larger batches.
    From bfloat16 only tiles of 2x2: the differences that 4x4 takes would lose its eight bits.
    """
    if (conv.kernel, conv.strides, conv.dilation) != ((3, 3), (1, 1), (1, 1)):
        return []
    if (
        conv.batch != 1
        or conv.groups != 1
        or (conv.dot != 1 and not conv.bfloat16)
        or conv.channels % isa.lanes
        or conv.out_channels % isa.lanes
    ):
        return []
    ranked = sorted(_plans(conv, isa, cores), key=lambda plan: plan.cost)
    bound = _TRIED * _plain_cost(conv, isa)
    return [plan for plan in ranked[:_MOST_PLANS] if plan.cost <= bound]


def _plain_cost(conv: ConvShape, isa: Level) -> float:
    """Vector instructions of the plain sums."""
    return conv.macs / isa.lanes / conv.dot


def _plans(conv: ConvShape, isa: Level, cores: int) -> Iterator[WinogradPlan]:
    for size in (2,) if conv.bfloat16 else _TRANSFORMS:
        tiles = WinogradShape(conv, size, 1).tiles
        for group in sorted({-(-tiles // count) for count in range(1, tiles + 1)}):
            tile = dividing_tile(group, conv.out_channels, isa)
            made = replace(conv, rows=tile.rows, block=tile.channels)
            shape = WinogradShape(made, size, group)
            yield WinogradPlan(shape, tile, _cost(shape, tile, isa, cores))


def _cost(shape: WinogradShape, tile: RegisterTile, isa: Level, cores: int) -> float:
    conv = shape.conv
    c, k = conv.channels, conv.out_channels
    made = shape.groups * shape.group
    ideal = tile_cost(RegisterTile(tile.rows, isa.lanes, 4), tile.rows, 4 * isa.lanes)
    slower = max(1.0, tile_cost(tile, shape.group, k) / ideal)
    into, back = _TRANSFORMS[shape.size]
    transforms = made * (c * into + k * back) / isa.lanes
    size = 4 // conv.dot
    weights = shape.span**2 * c * k * size / _LINE
    frequencies = shape.span**2 * (c * size + k * 4) * shape.group
    spilled = _SPILLED_LINE * frequencies / _LINE * shape.groups if frequencies > _NEAR else 0.0
    work = shape.products / isa.lanes / conv.dot * slower + transforms + spilled
    again = _AGAIN_LINE * weights * (shape.groups - 1)
    # groups are dealt to the cores; half of an uneven deal counts, as one thread has none
    uneven = -(-shape.groups // cores) * cores / shape.groups if shape.groups > 1 else 1.0
    return (work + again) * (1 + (uneven - 1) / 2) + _WEIGHT_LINE * weights
