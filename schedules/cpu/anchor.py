"""Steps that the templates of convolutions and products share: find the blocks, tile, tensorize."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm.s_tir import Schedule

from lepton_tvm.kernels.notes import Form, KernelNotes
from lepton_tvm.kernels.register_tile import RegisterTile
from lepton_tvm.schedules.base import Block, Choices, Loop, kernel_notes, same_block
from lepton_tvm.targets import Level

__all__ = [
    "Anchor",
    "dot_loops",
    "find_anchor",
    "finish_tile",
    "parallel_outer",
    "shared_by",
    "split_depth",
    "unroll_between",
    "vectorize_inner",
]

# Operations that one round of the loop over input channels may take.
_MOST_COPIES = 256
# A loop over this many registers is unrolled.
_MOST_UNROLLED = 4
# Fewer elements than this are left to LLVM: as a vector they would be taken apart again.
_NARROWEST = 8
# Multiply-adds below which a parallel loop costs more than a second thread brings, by how many of
# them an instruction adds per lane: 5 to 10 microseconds of work. A launch costs about one, also
# where only one thread may run.
_WORTH_A_THREAD = {1: 600_000, 2: 1_000_000, 4: 1_500_000, 8: 1_500_000, 16: 1_500_000}


@dataclass(frozen=True)
class Anchor:
    """The blocks of a fused function around its one big reduction."""

    reduction: Block
    store: Block
    pad: Block | None
    notes: KernelNotes
    tile: RegisterTile

    @property
    def lanes(self) -> int:
        """Columns in one register of sums."""
        return self.tile.lanes

    @property
    def vectors(self) -> int:
        """Registers of columns in a tile."""
        return self.tile.vectors

    @property
    def rows(self) -> int:
        """Rows (pixels) of a tile."""
        return self.tile.rows

    @property
    def dot(self) -> int:
        """Products that are added at once."""
        return self.notes.dot

    @property
    def operand(self) -> str:
        """The element type of the activations."""
        return self.notes.operand

    @property
    def lines(self) -> int:
        """Output lines that share a word of activations."""
        return self.notes.lines or 1

    @property
    def words(self) -> int:
        """32-bit words of activations that an integer dot product takes at once."""
        return max(1, self.dot // 4)

    @property
    def tensorized(self) -> bool:
        """Whether the sums are dot products that fill a register."""
        return self.dot > 1 and self.lanes >= 4

    @property
    def weight_bytes(self) -> int:
        """Bytes of one weight."""
        return {"float32": 4, "bfloat16": 2}.get(self.operand, 1)


def find_anchor(sch: Schedule, kernel: str, form: Form = Form.VECTORS) -> Anchor | None:
    """Find the reduction annotated `kernel` and inline its epilogue into the block that stores.

    `form` is the unit that its weights are packed for; with MMLA the blocks that arrange its
    operand and its sums are left as well. None when the function has no such reduction or more than
    one output block.
    """
    root = sch.get_sblock("root")
    blocks = sch.get_child_blocks(root)
    noted = [(b, kernel_notes(sch, b)) for b in blocks]
    anchors = [(b, n) for b, n in noted if n and (n.kernel, n.form) == (kernel, form)]
    outputs = sch.get_output_blocks(root)
    if len(anchors) != 1 or len(outputs) != 1:
        return None
    (reduction, notes), store = anchors[0], outputs[0]
    producers = sch.get_producers(reduction)
    if notes.tile is None or len(producers) > 1:
        return None
    fixed = [reduction, store, *producers]
    if form is Form.MMLA:
        fixed += [*sch.get_producers(producers[0]), *sch.get_consumers(reduction)]
    for block in blocks:
        if not any(same_block(sch, block, f) for f in fixed):
            sch.compute_inline(block)
    return Anchor(reduction, store, producers[0] if producers else None, notes, notes.tile)


def dot_loops(
    sch: Schedule, anchor: Anchor, depth: Loop, lane: Loop, rest: Sequence[Loop]
) -> list[Loop]:
    """The loop over `depth`, then those that the dot product takes: words, `lane`, parts of a word.

    `rest` are the loops below `depth`: none in float32, the parts of a word in integers.
    """
    if not anchor.tensorized or anchor.words == 1:
        return [depth, lane, *rest]
    depth, words = sch.split(depth, [None, anchor.words])
    return [depth, words, lane, *rest]


def split_depth(
    sch: Schedule, choices: Choices, depth: Loop, copies: int, default: int = 1
) -> tuple[Loop, list[Loop]]:
    """The loop over input channels, and a loop inside it whose steps are unrolled, if any.

    By default `default` steps are one round of the loop, or one where that does not divide them;
    `copies` is how many operations a step takes.
    """
    extent = int(sch.get(depth).extent)
    fitting = [n for n in (1, 2, 4, 8) if extent % n == 0 and n * copies <= _MOST_COPIES]
    steps = choices.pick(sch, "unroll_depth", fitting or [1], default if default in fitting else 1)
    if steps == 1:
        return depth, []
    depth, step = sch.split(depth, [None, steps])
    sch.unroll(step)
    return depth, [step]


def shared_by(sch: Schedule, choices: Choices, name: str, loop: Loop) -> tuple[Loop, list[Loop]]:
    """`loop` cut in two, if asked: what is put between the halves is used by several rounds.

    By default it is not cut.
    """
    extent = int(sch.get(loop).extent)
    fitting = [n for n in (1, 2, 4, 7, 8, 14, 16, 28, 32) if extent % n == 0 and n < extent]
    rounds = choices.pick(sch, name, fitting or [1], 1)
    if rounds == 1:
        return loop, []
    outer, inner = sch.split(loop, [None, rounds])
    return outer, [inner]


def finish_tile(
    sch: Schedule,
    anchor: Anchor,
    at: Loop,
    first_reduction: Loop,
    lane: Loop,
    intrinsic: str | None,
    choices: Choices,
    level: Level | None = None,
) -> None:
    """Fuse the epilogue under `at`, start the sums at `first_reduction`, and vectorise.

    `lane` is the loop over the lanes of one register; it is tensorized with `intrinsic`, or plainly
    vectorised where that is None (left to LLVM for integers too few for a register). By default the
    epilogue is unrolled over the rows, so that the sums never leave their registers.
    """
    sch.set_scope(anchor.reduction, 0, "local")
    sch.reverse_compute_at(anchor.store, at, preserve_unit_loops=True)
    if intrinsic is None and anchor.dot == 1:
        sch.vectorize(lane)
    init = sch.decompose_reduction(anchor.reduction, first_reduction)
    if intrinsic is not None:
        sch.tensorize(lane, intrinsic)
    rows, vectors, lanes = sch.get_loops(init)[-3:]
    sch.vectorize(lanes)
    sch.unroll(vectors)
    sch.unroll(rows)
    vectorize_inner(sch, anchor.store, _store_lanes(sch, anchor, level))
    if choices.pick(sch, "unroll_epilogue", [0, 1], 1):
        unroll_between(sch, at, anchor.store, anchor.rows * anchor.vectors)


def _store_lanes(sch: Schedule, anchor: Anchor, level: Level | None) -> int:
    """Lanes of a stored vector: those of the sums, or on ARM as many bytes as fill a register.

    Tails of vectors are slow there, so they divide the tile and the channels.
    """
    store = sch.get(anchor.store)
    kind = str(store.writes[0].source.dtype).removeprefix("T.")
    if level is None or not level.by_lane or kind != "uint8":
        return anchor.lanes
    channels = int(store.iter_vars[-1].dom.extent)
    common = math.gcd(channels, anchor.lanes * anchor.vectors)
    return max((n for n in (8, 16) if common % n == 0), default=anchor.lanes)


def unroll_between(sch: Schedule, at: Loop, block: Block, most: int) -> None:
    """Unroll the loops of `block` inside `at`, but for its last one, which is vectorised.

    Not where they make more than `most` copies: an epilogue that spreads the sums over a larger
    tensor (the gate of a squeeze-and-excite block) may go around thousands of times.
    """
    loops = sch.get_loops(block)
    first = next(i for i, loop in enumerate(loops) if sch.get(loop).same_as(sch.get(at)))
    between = loops[first + 1 : -1]
    if math.prod(int(sch.get(loop).extent) for loop in between) > most:
        return
    for loop in between:
        sch.unroll(loop)


def vectorize_inner(sch: Schedule, block: Block, lanes: int) -> None:
    """Vectorise the last loop of `block` in pieces of `lanes`, or whole where it is shorter.

    What is left over at the end becomes masked loads and stores (`masked_vectors`). Few pieces are
    unrolled here: left as a loop, LLVM vectorises across them, with gathers.
    """
    last = sch.get_loops(block)[-1]
    extent = int(sch.get(last).extent)
    if extent < _NARROWEST:
        return
    width = min(extent, lanes)
    if width < extent:
        pieces, last = sch.split(last, [None, width])
        if -(-extent // width) <= _MOST_UNROLLED:
            sch.unroll(pieces)
    sch.vectorize(last)


def parallel_outer(sch: Schedule, loop: Loop, macs: int, dot: int) -> None:
    """Spread `loop` over the cores where the kernel's work is worth it."""
    if macs >= _WORTH_A_THREAD[dot] and int(sch.get(loop).extent) > 1:
        sch.parallel(loop)
