"""Dot products as tensor intrinsics, one per unit and vector width, made when asked for.

What multiplies is a family's `DotUnit`; what stands around it is the same everywhere. The textual
front end of TVM costs about 0.1 s an intrinsic, so none is made at import.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from lepton_tvm.kernels.conv2d import less, product
from lepton_tvm.schedules.cpu.anchor import Anchor
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

    def updated(A: Any, B: Any, C: Any) -> Any:
        words = [
            T.reinterpret("int32", A.vload([s * word], dtype=f"{element}x{word}"))
            for s in range(steps)
        ]
        return unit.multiply_add(
            C.vload([0], dtype=f"{total}x{lanes}"),
            [T.broadcast(w, lanes) for w in words],
            [B.vload([s, 0, 0], dtype=f"{weight}x{lanes * word}") for s in range(steps)],
        )

    @T.prim_func(s_tir=True)
    def one_word(a: T.handle, b: T.handle, c: T.handle) -> None:
        stride = T.int32()
        A = T.match_buffer(a, (dot,), element, offset_factor=1)
        B = T.match_buffer(b, (1, lanes, word), weight, offset_factor=1, strides=[stride, word, 1])
        C = T.match_buffer(c, (lanes,), total, offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:dot], B[0:1, 0:lanes, 0:word])
            T.writes(C[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, word):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        C[vi] = C[vi] + product(A[vk], B[0, vi, vk], offset)

    @T.prim_func(s_tir=True)
    def several_words(a: T.handle, b: T.handle, c: T.handle) -> None:
        stride = T.int32()
        A = T.match_buffer(a, (dot,), element, offset_factor=1)
        B = T.match_buffer(
            b, (steps, lanes, word), weight, offset_factor=1, strides=[stride, word, 1]
        )
        C = T.match_buffer(c, (lanes,), total, offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:dot], B[0:steps, 0:lanes, 0:word])
            T.writes(C[0:lanes])
            for s in T.serial(0, steps):
                for i in T.serial(0, lanes):
                    for k in T.serial(0, word):
                        with T.sblock("update"):
                            vi, vs, vk = T.axis.remap("SRR", [i, s, k])
                            C[vi] = C[vi] + product(A[vs * word + vk], B[vs, vi, vk], offset)

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, b: T.handle, c: T.handle) -> None:
        stride = T.int32()
        A = T.match_buffer(a, (dot,), element, offset_factor=1)
        B = T.match_buffer(
            b, (steps, lanes, word), weight, offset_factor=1, strides=[stride, word, 1]
        )
        C = T.match_buffer(c, (lanes,), total, offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:dot], B[0:steps, 0:lanes, 0:word])
            T.writes(C[0:lanes])
            C[T.ramp(0, 1, lanes)] = updated(A, B, C)

    desc = one_word if steps == 1 else several_words
    return _register(f"lepton.{unit.name}_dot_{lanes}", desc, impl)


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

    def operand(A: Any) -> Any:
        return A.vload([0], dtype=sums) if words == lanes else T.broadcast(A[0], lanes)

    @T.prim_func(s_tir=True)
    def desc(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (words,), "int32", offset_factor=1)
        B = T.match_buffer(b, (lanes, dot), "int8", offset_factor=1)
        C = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:words], B[0:lanes, 0:dot])
            T.writes(C[0:lanes])
            for i in T.serial(0, lanes):
                with T.sblock("update"):
                    vi = T.axis.spatial(lanes, i)
                    C[vi] = C[vi] + _sum_of_parts(A, B, vi, dot, words, unit.offset)

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (words,), "int32", offset_factor=1)
        B = T.match_buffer(b, (lanes, dot), "int8", offset_factor=1)
        C = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:words], B[0:lanes, 0:dot])
            T.writes(C[0:lanes])
            C[T.ramp(0, 1, lanes)] = unit.multiply_add(
                C.vload([0], dtype=sums), [operand(A)], [B.vload([0, 0], dtype=bytes_)]
            )

    kind = "lanewise" if words == lanes else "word_dot"
    return _register(f"lepton.{unit.name}_{kind}_{lanes}", desc, impl)


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


def _register(name: str, desc: Any, impl: Any) -> str:
    TensorIntrin.register(name, desc, impl, override=True)
    return name
