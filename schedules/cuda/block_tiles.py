"""Which tile of a product a thread block takes when nothing was tuned: an estimate in cycles.

With one picture most layers have fewer tiles than a GPU has multiprocessors, and time goes to
waiting for memory, once for each step over the depth. So the estimate counts the turns in which the
blocks run, the steps of a turn, and in each step the larger of what a block waits and what the
multiprocessor has to do. The figures are of NVIDIA's documentation and round; nothing was timed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lepton_tvm.targets.cuda import Gpu

__all__ = ["BLOCKS", "Tile", "Work", "aligned", "best_block", "best_tile", "cycles", "resident"]

# Cycles from asking for global memory to having it, with the two barriers of a step.
_WAIT = 800
# Bytes that a multiprocessor gets in a cycle from the second-level cache, and from shared memory.
_FETCHED, _READ = 64, 128
# Cycles in which a multiprocessor copies an element to shared memory: four of them take a thread
# about twelve instructions with the index arithmetic, and four warps of 32 go on in each cycle.
_COPIED = 12 / 4 / (4 * 32)
_SUM_BYTES = 4
#: Threads of a block where every thread has results of its own.
BLOCKS = (64, 128, 256, 512)
_USUAL = 256
# What the system takes of a block's shared memory, and registers beside the sums.
_SYSTEM_SHARED = 1024
_OTHER_REGISTERS = 48


@dataclass(frozen=True)
class Work:
    """A product: `batch` times [rows, depth] x [depth, columns], elements of `size` bytes.

    `rate`: multiply-adds of a multiprocessor in a cycle.
    """

    batch: int
    rows: int
    columns: int
    depth: int
    size: int
    rate: int


@dataclass(frozen=True)
class Tile:
    """What a block of `threads` computes, by steps of `depth`.

    `reads`: how often each element of the operands is read from shared memory. `shared`: bytes of
    shared memory that a block takes.
    """

    rows: int
    columns: int
    depth: int
    threads: int
    size: int
    reads: int
    shared: int


def aligned(stride: int, factor: int, offset: int) -> int:
    """The smallest number from `stride` on that is `offset` more than a multiple of `factor`.

    As `Schedule.storage_align` makes strides.
    """
    return stride + (offset - stride) % factor


def resident(tile: Tile, gpu: Gpu) -> int:
    """How many blocks a multiprocessor holds at once; at least 1."""
    registers = tile.rows * tile.columns // tile.threads + _OTHER_REGISTERS
    return max(
        1,
        min(
            gpu.processor_shared // (tile.shared + _SYSTEM_SHARED),
            gpu.processor_threads // tile.threads,
            gpu.block_registers // (tile.threads * registers),
        ),
    )


def cycles(tile: Tile, work: Work, gpu: Gpu) -> float:
    """The estimate for the whole product."""
    blocks = work.batch * -(-work.rows // tile.rows) * -(-work.columns // tile.columns)
    busiest = -(-blocks // gpu.processors)
    at_once = min(busiest, resident(tile, gpu))
    steps = -(-work.depth // tile.depth)
    elements = (tile.rows + tile.columns) * tile.depth
    added = tile.rows * tile.columns * tile.depth / work.rate
    own = max(
        elements * tile.size / _FETCHED,
        elements * tile.size * tile.reads / _READ,
        elements * _COPIED + added,
    )
    stored = tile.rows * tile.columns * _SUM_BYTES / _FETCHED
    step = max(_WAIT + own, at_once * own)
    end = max(_WAIT + stored, at_once * stored)
    return math.ceil(busiest / at_once) * (steps * step + end)


def best_tile(tiles: Iterable[Tile], work: Work, gpu: Gpu) -> Tile:
    """The tile with the lowest estimate among those that fit a block's shared memory."""
    fitting = [tile for tile in tiles if tile.shared <= gpu.shared_bytes]
    return min(fitting, key=lambda tile: (cycles(tile, work, gpu), tile.shared))


def best_block(results: int, gpu: Gpu) -> int:
    """Threads of a block where each thread computes one of `results`.

    256, or fewer where these would leave multiprocessors without a block.
    """
    fitting = [n for n in BLOCKS if n <= _USUAL and -(-results // n) >= gpu.processors]
    return max(fitting, default=BLOCKS[0])
