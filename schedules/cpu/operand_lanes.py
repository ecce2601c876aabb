"""Activations in registers, several steps of the depth at once, one lane of which multiplies.

ARM multiplies a register by one lane of another (`fmla v0.4s, v1.4s, v2.s[1]`, `sdot v0.4s,
v1.16b, v2.4b[1]`). So the depth is taken in rounds of as many steps as a register holds; in each
the activations of every row of a tile are loaded once, instead of being spread over a register
step by step.
"""

from __future__ import annotations

import functools
from typing import Any

from tvm import sym, tirx
from tvm.s_tir import Schedule
from tvm.script import tirx as T

from lepton_tvm.ir.tir_rewrite import mentions, substitute
from lepton_tvm.kernels.conv2d import product
from lepton_tvm.schedules.base import Block, Choices, Loop
from lepton_tvm.schedules.cpu.anchor import Anchor, split_depth
from lepton_tvm.schedules.cpu.dot_products import UnitOf, dot_intrinsic
from lepton_tvm.schedules.intrinsic import Intrinsic, Operand, register
from lepton_tvm.targets import Level

__all__ = ["multiply_tile", "split_rounds"]

_WORD = 4
_SPATIAL, _REDUCED = 0, 2  # as TVM numbers kinds of iterators


def split_rounds(
    sch: Schedule, choices: Choices, level: Level, anchor: Anchor, depth: Loop
) -> tuple[Loop, list[Loop], int]:
    """The loop over `depth`, one over the steps of its rounds (if any), and how many are one.

    That is 1 where activations are spread over registers: then rounds are those of `split_depth`.
    """
    lanes = _lanes_at_once(sch, choices, level, anchor, depth)
    if lanes == 1:
        copies = anchor.rows * anchor.vectors * anchor.words
        return *split_depth(sch, choices, depth, copies), 1
    depth, step = sch.split(depth, [None, lanes])
    return depth, [step], lanes


def multiply_tile(
    sch: Schedule,
    unit_of: UnitOf,
    level: Level,
    anchor: Anchor,
    lanes: int,
    depth: Loop,
    tile: tuple[Loop, Loop, Loop],
    steps: list[Loop],
) -> tuple[Loop, str | None]:
    """Unroll a tile, or prepare it for lanes; the loop to tensorize, and with what.

    `tile` are the loops over its rows, its registers of columns and their lanes, `steps` those of
    `split_rounds` around them.
    """
    if lanes > 1:
        _near_operand(sch, anchor, depth)
        if anchor.tensorized:
            return steps[0], _tile_intrinsic(
                unit_of, level, anchor.rows, anchor.vectors, anchor.lanes, lanes
            )
        sch.unroll(steps[0])
    for loop in tile[:2]:
        sch.unroll(loop)
    return tile[2], dot_intrinsic(unit_of, level, anchor) if anchor.tensorized else None


def _lanes_at_once(
    sch: Schedule, choices: Choices, level: Level, anchor: Anchor, depth: Loop
) -> int:
    """By default as many steps as a register holds, or half of them where they divide the depth.

    A step is a float32 or a word of four bytes. Tiles of one row, and of one register of columns in
    integers, spread their activations instead: TVM does not match them.
    """
    if not level.by_lane or anchor.rows == 1:
        return 1
    integer = anchor.operand == "uint8" and anchor.dot == _WORD and anchor.tensorized
    if not (integer and anchor.vectors > 1) and anchor.operand != "float32":
        return 1
    if not _lies_along(sch, anchor.reduction, _WORD if integer else 1):
        return 1
    extent = int(sch.get(depth).extent)
    fitting = [n for n in (1, 2, 4) if extent % n == 0]
    return choices.pick(sch, "lanes_at_once", fitting, fitting[-1])


def _lies_along(sch: Schedule, reduction: Block, word: int) -> bool:
    """Whether steps of the depth are neighbours in memory, and the same ones for all columns."""
    block = sch.get(reduction)
    depth = block.iter_vars[-1 if word == 1 else -2].var
    columns = [v.var for v in block.iter_vars if int(v.iter_type) == _SPATIAL][-1]
    region = [r.min for r in block.reads[0].region]
    if any(mentions(index, columns) for index in region):
        return False
    analyzer = sym.Analyzer()
    moved = [analyzer.simplify(substitute(i, depth, depth + 1) - i) for i in region]
    wanted = [*[0] * (len(region) - 1), word]
    return all(
        isinstance(step, tirx.IntImm) and int(step) == want
        for step, want in zip(moved, wanted, strict=True)
    )


def _near_operand(sch: Schedule, anchor: Anchor, at: Loop) -> None:
    """Load the activations of a tile into registers in each round of the loop `at`.

    The blocks are those of a convolution or a product; in the buffer rows and steps are neighbours.
    """
    word = anchor.dot == _WORD
    reduced = [v for v in sch.get(anchor.reduction).iter_vars if int(v.iter_type) == _REDUCED]
    near = sch.reindex(anchor.reduction, ("read", 0))
    sch.set_scope(near, 0, "local")
    # taps lie between the rows and the depth; those of a filter one wide are left out
    depth = len(sch.get(near).iter_vars) - 1 - word
    place = depth - 1 - sum(int(tap.dom.extent) > 1 for tap in reduced[: -1 - word])

    def rows_last(*index: Any) -> list[Any]:
        others = [i for at, i in enumerate(index[:depth]) if at != place]
        return [*others, index[place], *index[depth:]]

    sch.transform_layout(near, ("write", 0), rows_last)
    sch.compute_at(near, at)
    loops = sch.get_loops(near)
    outside = next(i for i, loop in enumerate(loops) if sch.get(loop).same_as(sch.get(at)))
    *rows, last = loops[outside + 1 :]
    if word:
        last = sch.fuse(rows.pop(), last)
    for loop in rows:
        sch.unroll(loop)
    sch.vectorize(last)


@functools.cache
def _tile_intrinsic(
    unit_of: UnitOf, level: Level, rows: int, vectors: int, lanes: int, steps: int
) -> str:
    """The name of: C[rows, columns] += sum of A[rows, steps, 4] * B[steps, columns, 4].

    A (uint8) and C (int32) are local buffers, B is int8. Every product of a step comes before those
    of the next, so that few weights are held at once.
    """
    unit = unit_of(level, lanes, _WORD, "uint8")
    offset, columns = unit.offset, vectors * lanes

    def updated(A: Any, B: Any, C: Any, s: Any, i: Any, v: Any) -> Any:
        words = T.reinterpret(f"int32x{steps}", A.vload([i, 0, 0], dtype=f"uint8x{steps * _WORD}"))
        word = T.Shuffle([words] * (lanes // steps), [s] * lanes)
        weights = B.vload([s, v * lanes, 0], dtype=f"int8x{lanes * _WORD}")
        sums = C.vload([i, v * lanes], dtype=f"int32x{lanes}")
        return unit.multiply_add(sums, [word], [weights])

    def code(A: Any, B: Any, C: Any) -> None:
        with T.unroll(steps) as s, T.unroll(rows) as i, T.unroll(vectors) as v:
            T.buffer_store(C, updated(A, B, C, s, i, v), [i, T.ramp(v * lanes, 1, lanes)])

    return register(
        Intrinsic(
            name=f"lepton.{unit.name}_lanes_{rows}x{vectors}x{lanes}x{steps}",
            operands=(
                Operand((rows, steps, _WORD), "uint8", "local"),
                Operand((steps, columns, _WORD), "int8"),
                Operand((rows, columns), "int32", "local"),
            ),
            loops={"s": steps, "i": rows, "v": vectors, "j": lanes, "k": _WORD},
            spatial=("i", "vj"),
            reduced=("s", "k"),
            term=lambda A, B, i, j, s, k: product(A[i, s, k], B[s, j, k], offset),
            code=code,
        )
    )
