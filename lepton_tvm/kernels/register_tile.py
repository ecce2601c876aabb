"""Chooses how many rows and channels of an output one loop body keeps in registers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lepton_tvm.targets.family import Level

__all__ = [
    "RegisterTile",
    "channel_tiles",
    "choose_channel_tile",
    "choose_tile",
    "dividing_tile",
    "mmla_tiles",
    "ranked_tiles",
    "row_candidates",
    "tile_cost",
]

# A fused multiply-add has a latency of about four cycles and two start per cycle: fewer
# independent accumulators than this leave the unit waiting.
_CHAINS = 8
# Rows or channels that are computed and thrown away also cost branches in the epilogue.
_TAIL_PENALTY = 1.1
# Lines of a set that rows may take: of 8 or 12 ways one is left to weights. Sets repeat each 4 KiB.
_WAYS, _SET_PERIOD = 7, 4096
# Among equally fast tiles prefer fewer loads and fewer passes over the weights.
_LOAD_WEIGHT = 0.15
_LANE_LOAD_WEIGHT = 0.5
# Tiles that look this much worse than the best one, or come later, are not worth a trial.
_WORTH_TRYING, _MOST_TILES = 1.6, 16
# Registers that LLVM fills ahead of a matrix instruction, by the loads that a pair of rows takes;
# with fewer it moves sums to the stack.
_LOADS_AHEAD = {1: 8, 2: 12}
# Bytes of weights that stay in the first-level cache from tile to tile.
_FIRST_LEVEL = 32 * 1024


@dataclass(frozen=True)
class RegisterTile:
    """`rows` output rows (pixels) times `vectors` registers of `lanes` output channels each."""

    rows: int
    lanes: int
    vectors: int

    @property
    def channels(self) -> int:
        """Output channels of the tile: the block by which weights are packed."""
        return self.lanes * self.vectors


@dataclass(frozen=True)
class _Step:
    """What one step over the depth takes: words read, multiplications a sum, spare registers."""

    words: int = 1
    multiplications: int = 1
    spare: int = 0
    chains: int = _CHAINS
    halves: int = 1  # registers of a weight: its upper half is moved to one of its own
    row_moves: float = 0  # instructions other than loads that bring a row to its register
    row_loads: float = 1
    row_registers: int = 0  # what a row of activations holds all the time
    load_weight: float = _LOAD_WEIGHT


def _step(dot: int, isa: Level) -> _Step:
    if isa.by_lane and dot in (1, 4):
        return _lane_step(dot, isa)
    if isa.offset and dot > 1:  # smull of pairs: as in `_lane_step`
        return _Step(multiplications=4, spare=12, chains=1, halves=2)
    if dot == 1 or (dot == 4 and isa.dot4):
        return _Step()
    if dot == 2:
        return _Step(spare=1, chains=1)  # the product; only the addition waits for the sum
    return _Step(dot // 4, dot // 4 + 1, spare=2, chains=1)  # the products and a vector of ones


def _lane_step(dot: int, isa: Level) -> _Step:
    """ARM: every row holds a register of four steps, of which one lane multiplies at a time.

    It takes a load and mostly an address for four steps, and one instruction where its values are
    to be signed, the signs a register. Small cores start two instructions a cycle, so loads count.
    """
    signs = dot == 4 and isa.offset > 0
    step = _Step(
        spare=2 + signs, row_moves=signs / 4, row_loads=1 / 2, row_registers=1,
        load_weight=_LANE_LOAD_WEIGHT,
    )  # fmt: skip
    if not signs or isa.dot4:
        return step
    # smull: two multiplications and two sums, of lanes that are spread first. LLVM has several
    # products in flight and moves nearly all registers in every step where they leave no room.
    return replace(step, multiplications=4, spare=6, chains=1, halves=2)


def row_candidates(extent: int, vectors: int, isa: Level, dot: int = 1) -> list[int]:
    """The numbers of rows whose sums fit the registers, at most `extent`.

    Beside the sums stand `vectors` registers of weights and one for the activation, for each word
    that a step reads, and what products need. With a single one too many, LLVM moves nearly every
    register in every step.
    """
    step = _step(dot, isa)
    held = (vectors * step.halves + 1) * step.words
    most = max(1, (isa.registers - held - step.spare) // (vectors + step.row_registers))
    return list(range(1, min(extent, most) + 1))


def choose_tile(
    extent: int,
    channels: int,
    isa: Level,
    dot: int = 1,
    *,
    row_bytes: int = 1,
    weight_bytes: int = 0,
) -> RegisterTile:
    """The cheapest tile by a two-port model: the first of `ranked_tiles`."""
    return ranked_tiles(extent, channels, isa, dot, row_bytes=row_bytes, weight_bytes=weight_bytes)[
        0
    ]


def ranked_tiles(
    extent: int,
    channels: int,
    isa: Level,
    dot: int = 1,
    *,
    row_bytes: int = 1,
    weight_bytes: int = 0,
) -> list[RegisterTile]:
    """The tiles worth a trial, by a two-port model of multiply-adds, loads and wasted lanes.

    `extent` is the number of output rows that a tile may span (the output width of a convolution,
    all rows of a product), `channels` the output channels, `dot` the products added at once.
    Smaller vectors are considered where the channels do not fill the large ones. Rows that lie
    `row_bytes` apart must not push each other out of the first-level cache, in which lines a
    multiple of 4 KiB apart share a set. A tile whose weights, `weight_bytes` an output channel,
    are more than that cache holds reads them at half the speed.
    """
    step = _step(dot, isa)
    most_rows = _WAYS * (_SET_PERIOD // math.gcd(row_bytes, _SET_PERIOD))
    costs = {
        tile: _cost(tile, extent, channels, step, tile.channels * weight_bytes > _FIRST_LEVEL)
        for tile in _tiles(min(extent, most_rows), channels, isa, dot)
    }
    return _worth_trying(costs)


def mmla_tiles(rows: int, columns: int, isa: Level, *, pair_loads: int = 2) -> list[RegisterTile]:
    """As `ranked_tiles`, for an instruction that multiplies pairs of rows and pairs of columns.

    A register holds the sums of 2 rows and 2 columns, so a tile takes as many registers as
    without. The weights of four columns are two registers; two rows of activations are one more,
    made of `pair_loads` loads (1 from a copy; 2 in place, and a move that joins them), of which
    LLVM has several in flight.
    """
    moves, loads = (pair_loads - 1) / 2, pair_loads / 2
    costs = {
        # two loads of weights a vector
        tile: _cost(tile, rows, columns, _Step(row_moves=moves, row_loads=loads), far=True)
        for tile in _tiles(rows + rows % 2, columns, isa)
        if tile.rows % 2 == 0
        and tile.rows * tile.vectors <= isa.registers - _LOADS_AHEAD[pair_loads]
        and (tile.rows + 2) * tile.vectors + 2 <= isa.registers
    }
    return _worth_trying(costs)


def _worth_trying(costs: dict[RegisterTile, float]) -> list[RegisterTile]:
    """The cheapest tiles, the best first."""
    ranked = sorted(costs, key=lambda tile: (costs[tile], -tile.rows))
    bound = _WORTH_TRYING * costs[ranked[0]]
    return [tile for tile in ranked[:_MOST_TILES] if costs[tile] <= bound]


def dividing_tile(extent: int, channels: int, isa: Level) -> RegisterTile:
    """The cheapest tile of full registers whose rows and channels divide `extent` and `channels`.

    `channels` must be a multiple of the lanes.
    """
    fitting = (
        tile
        for tile in _tiles(extent, channels, isa)
        if tile.lanes == isa.lanes and extent % tile.rows == 0 and channels % tile.channels == 0
    )
    return min(fitting, key=lambda t: (tile_cost(t, extent, channels), -t.rows))


def choose_channel_tile(
    extent: int, channels: int, isa: Level, *, wide: bool = True
) -> RegisterTile:
    """The tile of a depthwise convolution, whose channels are not padded: lanes divide them.

    `wide` allows two registers of channels beside each other; one leaves room for longer runs of
    pixels, which large filters read again more often.
    """
    lanes = isa.lanes
    while channels % lanes and lanes > 4:
        lanes //= 2
    if channels % lanes:
        lanes = 1
    vectors = 2 if wide and channels % (2 * lanes) == 0 and lanes > 1 else 1
    most = max(1, (isa.registers // 2 - 2) // vectors)  # half of them: the filter takes the rest
    fits = [r for r in range(1, min(extent, most) + 1) if extent % r == 0]
    rows = fits[-1] if fits[-1] * 2 > min(extent, most) else min(extent, most)
    return RegisterTile(rows, lanes, vectors)


def channel_tiles(
    extent: int, channels: int, isa: Level, *, wide: bool = True
) -> list[RegisterTile]:
    """`choose_channel_tile` and the others worth a trial: other runs of pixels, other widths."""
    best = choose_channel_tile(extent, channels, isa, wide=wide)
    made = [best]
    for vectors in (1, 2, 4):
        if channels % (vectors * best.lanes) or (best.lanes == 1 and vectors > 1):
            continue
        most = max(1, (isa.registers - 4) // vectors)
        counts = {min(extent, rows) for rows in (1, 2, 3, 4, 6, 7, 8, 10, 12, 14, 16, 28)}
        made += [RegisterTile(rows, best.lanes, vectors) for rows in sorted(counts) if rows <= most]
    return list(dict.fromkeys(made))


def tile_cost(tile: RegisterTile, extent: int, channels: int) -> float:
    """Cycles per useful output and reduction step in float32, up to a constant factor."""
    return _cost(tile, extent, channels, _Step())


def _cost(tile: RegisterTile, extent: int, channels: int, step: _Step, far: bool = False) -> float:
    sums = tile.rows * (tile.vectors * step.multiplications + step.row_moves)
    loads = (tile.rows * step.row_loads + tile.vectors * (2 if far else 1)) * step.words
    cycles = max(sums, loads, step.chains if sums < step.chains else 0) / 2
    cycles += step.load_weight * loads / 2
    row_waste = -(-extent // tile.rows) * tile.rows / extent
    lane_waste = -(-channels // tile.channels) * tile.channels / channels
    tails = (_TAIL_PENALTY if row_waste > 1 else 1.0) * (_TAIL_PENALTY if lane_waste > 1 else 1.0)
    return cycles / (tile.rows * tile.channels) * row_waste * lane_waste * tails


def _tiles(extent: int, channels: int, isa: Level, dot: int = 1) -> Iterator[RegisterTile]:
    lanes = isa.lanes
    while lanes >= 4:
        for vectors in (1, 2, 3, 4, 5, 6, 8):
            if vectors > 1 and lanes * (vectors - 1) >= channels:
                break
            for rows in row_candidates(extent, vectors, isa, dot):
                yield RegisterTile(rows, lanes, vectors)
        lanes //= 2
