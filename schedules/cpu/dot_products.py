"""Dot products as tensor intrinsics, one per unit and vector width, made when asked for.

What multiplies is a family's `DotUnit`; what stands around it is the same everywhere. None is made
at import, for most are of other machines.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm.script import tirx as T

from lepton_tvm.kernels.conv2d import less, product
from lepton_tvm.schedules.cpu.anchor import Anchor
from lepton_tvm.schedules.intrinsic import Intrinsic, Operand, register
from lepton_tvm.targets import Level

__all__ = [
    "DotUnit",
    "UnitOf",
    "bfloat16_dot_intrinsic",
    "dot_intrinsic",
    "lanewise_dot_intrinsic",
]


@dataclass(frozen=True)
class DotUnit:
    """A few instructions that add `steps` words of `word` products each into every 32-bit lane.

    `operand` is the element type of the activations, of which `word` fill 32 bits, `weight` that of
    the weights and `total` that of the sums. `multiply_add` takes a vector of sums, `steps` vectors
    of int32 words and as many of weights, and returns the new sums. It subtracts `offset` from
    every activation before it multiplies.
    """

    name: str
    word: int
    steps: int
    operand: str
    multiply_add: Callable[[Any, Sequence[Any], Sequence[Any]], Any]
    weight: str = "int8"
    total: str = "int32"
    offset: int = 0


#: The unit of a level for kernels of that many lanes and products a lane, whose activations are
#: stored as that element type.
UnitOf: TypeAlias = Callable[[Level, int, int, str], DotUnit]


def dot_intrinsic(unit_of: UnitOf, isa: Level, anchor: Anchor) -> str:
    """The name of: C[lanes] += sum over `dot` of A[dot] (for all lanes) * B[word, lanes, part].

    A is uint8, or int16 for `dot` 2 (bytes already widened); B is int8, one block of lanes for each
    32-bit word of A; C is int32 in a local buffer. Where bytes are added in 16 bits B must
    be such that their sums fit. For bfloat16 A and B are pairs of it (A as uint16 in a copy), C is
    float32.
    """
    if anchor.operand == "uint8x4":
        return _word_intrinsic(unit_of, isa, anchor.lanes, anchor.dot, 1)
    copied = anchor.operand == "bfloat16" and anchor.pad is not None
    operand = "uint16" if copied else anchor.operand
    return _dot_intrinsic(unit_of, isa, anchor.lanes, anchor.dot, operand)


def bfloat16_dot_intrinsic(unit_of: UnitOf, isa: Level, lanes: int) -> str:
    """`dot_intrinsic` for pairs of bfloat16 whose first operand is a kernel's own copy."""
    return _dot_intrinsic(unit_of, isa, lanes, 2, "uint16")


@functools.cache
def _dot_intrinsic(unit_of: UnitOf, isa: Level, lanes: int, dot: int, operand: str) -> str:
    unit = unit_of(isa, lanes, dot, operand)
    word, steps, element, weight, total, offset = (
        unit.word, unit.steps, unit.operand, unit.weight, unit.total, unit.offset
    )  # fmt: skip

    def code(A: Any, B: Any, C: Any) -> None:
        words = [
            T.reinterpret("int32", A.vload([s * word], dtype=f"{element}x{word}"))
            for s in range(steps)
        ]
        value = unit.multiply_add(
            C.vload([0], dtype=f"{total}x{lanes}"),
            [T.broadcast(w, lanes) for w in words],
            [B.vload([s, 0, 0], dtype=f"{weight}x{lanes * word}") for s in range(steps)],
        )
        T.buffer_store(C, value, [T.ramp(0, 1, lanes)])

    def one_word(A: Any, B: Any, i: Any, k: Any) -> Any:
        return product(A[k], B[0, i, k], offset)

    def several_words(A: Any, B: Any, i: Any, s: Any, k: Any) -> Any:
        return product(A[s * word + k], B[s, i, k], offset)

    one = steps == 1
    return register(
        Intrinsic(
            name=f"lepton.{unit.name}_dot_{lanes}",
            operands=(
                Operand((dot,), element),
                Operand((steps, lanes, word), weight, strides=(None, word, 1)),
                Operand((lanes,), total, "local"),
            ),
            loops={"i": lanes, "k": word} if one else {"s": steps, "i": lanes, "k": word},
            spatial=("i",),
            reduced=("k",) if one else ("s", "k"),
            term=one_word if one else several_words,
            code=code,
        )
    )


def lanewise_dot_intrinsic(unit_of: UnitOf, isa: Level, lanes: int, dot: int) -> str:
    """The name of: C[lanes] += sum over `dot` of part(A[lanes], dot) * B[lanes, dot].

    A holds `dot` unsigned parts per 32-bit word: four bytes or two 16-bit halves.
    """
    return _word_intrinsic(unit_of, isa, lanes, dot, lanes)


@functools.cache
def _word_intrinsic(unit_of: UnitOf, isa: Level, lanes: int, dot: int, words: int) -> str:
    """As `lanewise_dot_intrinsic`, for a word per lane or, with `words` 1, one word for all."""
    unit = unit_of(isa, lanes, dot, "uint8")
    sums, bytes_ = f"int32x{lanes}", f"int8x{lanes * dot}"

    def code(A: Any, B: Any, C: Any) -> None:
        word = A.vload([0], dtype=sums) if words == lanes else T.broadcast(A[0], lanes)
        value = unit.multiply_add(C.vload([0], dtype=sums), [word], [B.vload([0, 0], dtype=bytes_)])
        T.buffer_store(C, value, [T.ramp(0, 1, lanes)])

    kind = "lanewise" if words == lanes else "word_dot"
    return register(
        Intrinsic(
            name=f"lepton.{unit.name}_{kind}_{lanes}",
            operands=(
                Operand((words,), "int32"),
                Operand((lanes, dot), "int8"),
                Operand((lanes,), "int32", "local"),
            ),
            loops={"i": lanes},
            spatial=("i",),
            reduced=(),
            term=lambda A, B, i: _sum_of_parts(A, B, i, dot, words, unit.offset),
            code=code,
        )
    )


def _sum_of_parts(A: Any, B: Any, lane: Any, dot: int, words: int, offset: int) -> Any:
    """What the integer depthwise kernel and `image_conv2d` sum, term by term in the same order."""
    bits = 32 // dot
    whole = A[0] if words == 1 else A[lane]
    total = None
    for part in range(dot):
        word = T.shift_right(whole, bits * part) if part else whole
        value = less(T.bitwise_and(word, (1 << bits) - 1), offset)
        value = value * T.cast(B[lane, part], "int32")
        total = value if total is None else total + value
    return total
