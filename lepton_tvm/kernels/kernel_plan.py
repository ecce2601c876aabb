"""How an op with constant weights is lowered: what is decided before its weights are packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from lepton_tvm.kernels.conv2d import ConvShape
from lepton_tvm.kernels.mmla_conv2d import saved_instructions
from lepton_tvm.kernels.mmla_matmul import saves_instructions
from lepton_tvm.kernels.register_tile import RegisterTile, mmla_tiles
from lepton_tvm.kernels.winograd_plan import WinogradPlan, is_worth, winograd_plans
from lepton_tvm.targets.family import Level

__all__ = [
    "DEFAULT_PLANS",
    "DefaultPlans",
    "KernelPlan",
    "Plans",
    "PlansByOp",
    "conv_plans",
    "product_plans",
]


@dataclass(frozen=True)
class KernelPlan:
    """A register tile, of the plain sums, of a matrix instruction or of Winograd's products."""

    tile: RegisterTile
    winograd: WinogradPlan | None = None
    mmla: bool = False
    #: The names of all decisions of plans.
    names: ClassVar[tuple[str, ...]] = (
        "tile_rows",
        "tile_lanes",
        "tile_vectors",
        "winograd_tile",
        "winograd_group",
        "matrix",
    )

    @property
    def decisions(self) -> dict[str, int]:
        """The plan as names and numbers, as tuning records hold it."""
        made = {
            "tile_rows": self.tile.rows,
            "tile_lanes": self.tile.lanes,
            "tile_vectors": self.tile.vectors,
        }
        if self.winograd is not None:
            made |= {
                "winograd_tile": self.winograd.shape.size,
                "winograd_group": self.winograd.shape.group,
            }
        return made | {"matrix": 1} if self.mmla else made


class Plans(Protocol):
    """Where the lowering's decisions come from."""

    def choose(self, op: int, candidates: Sequence[KernelPlan]) -> KernelPlan:
        """One of `candidates`, the first of which is the default; `op` counts the ops lowered."""
        ...

    def packed(self, op: int, weights: Any) -> None:
        """Hear that the kernel of `op` reads `weights`, a Relax constant of its own."""
        ...


@dataclass(frozen=True)
class DefaultPlans:
    """No search: the analytical answer each time."""

    def choose(self, op: int, candidates: Sequence[KernelPlan]) -> KernelPlan:
        """The first."""
        return candidates[0]

    def packed(self, op: int, weights: Any) -> None:
        """Nothing is noted."""


#: What compiling without a search takes.
DEFAULT_PLANS = DefaultPlans()


@dataclass
class PlansByOp:
    """The plans with the given decisions, the default elsewhere.

    Notes what could be chosen for each op, and the packed weights that its kernel reads: after
    fusion they still say which op a kernel came from.
    """

    decisions: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    candidates: dict[int, tuple[KernelPlan, ...]] = field(default_factory=dict)
    weights: dict[int, Any] = field(default_factory=dict)

    def choose(self, op: int, candidates: Sequence[KernelPlan]) -> KernelPlan:
        """The candidate with the decisions wanted for `op`; the first where there is none."""
        self.candidates[op] = tuple(candidates)
        return _wanted(candidates, self.decisions.get(op))

    def packed(self, op: int, weights: Any) -> None:
        """Note the weights of `op`."""
        self.weights[op] = weights

    def changing(self, decisions: Mapping[int, Mapping[str, int]]) -> bool:
        """Whether the ops that were asked about would be lowered otherwise with `decisions`."""
        return any(
            _wanted(found, decisions.get(op)) != _wanted(found, self.decisions.get(op))
            for op, found in self.candidates.items()
        )


def _wanted(candidates: Sequence[KernelPlan], decisions: Mapping[str, int] | None) -> KernelPlan:
    return next((c for c in candidates if c.decisions == decisions), candidates[0])


def product_plans(
    rows: int, depth: int, columns: int, tiles: Sequence[RegisterTile], isa: Level
) -> list[KernelPlan]:
    """The plans of an int8 product where there is a matrix instruction, the default first."""
    plain = [KernelPlan(tile) for tile in tiles]
    if rows == 1:
        return plain
    mmla = [KernelPlan(tile, mmla=True) for tile in mmla_tiles(rows, columns, isa)]
    saves = saves_instructions(rows, depth, columns, mmla[0].tile)
    return [*mmla, *plain] if saves else [*plain, *mmla]


def conv_plans(
    shape: ConvShape,
    tiles: Sequence[RegisterTile],
    isa: Level,
    cores: int,
    *,
    winograd: bool,
    mmla: bool = False,
) -> list[KernelPlan]:
    """The plans of a convolution worth a trial, the default first.

    With `mmla` it is an int8 one without groups for a target with a matrix instruction.
    """
    plain = [KernelPlan(tile) for tile in tiles]
    if mmla:
        return _mmla_conv_plans(shape, plain, isa)
    if not winograd:
        return plain
    moved = winograd_plans(shape, isa, cores)
    others = [KernelPlan(plan.tile, plan) for plan in moved]
    return [*others, *plain] if moved and is_worth(moved[0], isa) else [*plain, *others]


def _mmla_conv_plans(shape: ConvShape, plain: list[KernelPlan], isa: Level) -> list[KernelPlan]:
    tiles = mmla_tiles(shape.out_width, shape.out_channels, isa, pair_loads=1)
    saved, copied = saved_instructions(shape, tiles[0])
    if saved <= 0:
        return plain
    mmla = [KernelPlan(tile, mmla=True) for tile in tiles]
    return [*mmla, *plain] if saved > copied else [*plain, *mmla]
