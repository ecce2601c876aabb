"""How many products a kernel adds at once, and with which integer weights that is exact.

`dot` of a kernel: 1 in float32; 2 for pairs of bfloat16, and of bytes widened to 16 bits
(`vpmaddwd`); 4 for bytes in one 32-bit word (`vpdpbusd`, or `vpmaddubsw` where there is no VNNI;
`sdot`, `usdot`, or `smull` on ARM); 8 and 16 for two and four such words whose 16-bit products are
added before they are widened (`vpmaddubsw` only).

`vpmaddubsw` multiplies uint8 by int8 and adds neighbouring products in int16, with saturation.
Activations may take every value, so the weights decide: those of one 16-bit sum must not add up to
more than `LARGEST_SUM`, the positive and the negative ones each by themselves.

ARM's `smull` multiplies signed bytes, and two products are added in int16: activations less 128
times weights of at least -127 always fit, only two neighbouring weights of -128 do not.
"""

from __future__ import annotations

import numpy as np

from lepton_tvm.ir.graph import Array
from lepton_tvm.ir.precisions import BFLOAT16, FLOAT32, INT8
from lepton_tvm.targets.family import Level

__all__ = [
    "LARGEST_SUM",
    "WORD",
    "dot_candidates",
    "has_narrow_sums",
    "in_words",
    "is_exact",
    "largest_sums",
    "uses_maddubs",
    "words_added",
]

#: 255 times this, the largest activation, still is in int16, for both signs.
LARGEST_SUM = 128
#: Bytes of a 32-bit lane, and the weights that meet in it.
WORD = INT8.per_lane


def uses_maddubs(dot: int, isa: Level) -> bool:
    """Whether a kernel with this `dot` adds unsigned by signed bytes in 16 bits."""
    return dot >= WORD and has_narrow_sums(isa)


def has_narrow_sums(isa: Level) -> bool:
    """Whether the sums of bytes of an instruction set saturate for some usual weights."""
    return not (isa.dot4 or isa.offset)


def dot_candidates(dtype: str, depth: int, isa: Level) -> tuple[int, ...]:
    """Values of `dot` for weights of `dtype`, fastest first; the last one is always exact.

    `depth` is the number of input channels that one output sums. Several words are added only
    where the depth, rounded up to whole words, is a multiple of them.
    """
    for floats in (FLOAT32, BFLOAT16):
        if dtype == floats.weight:
            return (floats.per_lane,)
    if isa.dot4:
        return (WORD,)
    if isa.offset:
        return (WORD, 2)
    return (*(words * WORD for words in (4, 2, 1) if _whole(depth) % words == 0), 2)


def words_added(depth: int) -> int:
    """How many words weights are quantized for where 16-bit sums are wanted: one or two.

    With two, multiplying takes three instructions instead of four. Four would save another half
    one and were measured to cost 2.7 dB of a network's accuracy, where two cost 1 dB.
    """
    return 2 if _whole(depth) % 2 == 0 else 1


def _whole(depth: int) -> int:
    return -(-depth // WORD)


def in_words(weight: Array, axis: int, word: int = WORD) -> Array:
    """Split `axis` into words of `word` values, the last one filled with zeros: [.., word] last."""
    fill = [(0, 0)] * weight.ndim
    fill[axis] = (0, -weight.shape[axis] % word)
    full = np.pad(weight, fill)
    shape = (*full.shape[:axis], -1, word, *full.shape[axis + 1 :])
    return np.moveaxis(full.reshape(shape), axis + 1, -1)


def is_exact(packed: Array, dot: int, isa: Level) -> bool:
    """Whether no activations can make a sum of a kernel with these weights saturate."""
    if isa.offset and not isa.dot4 and dot == WORD:
        pairs = packed.reshape(*packed.shape[:-1], WORD // 2, 2)
        return not bool((pairs == -128).all(axis=-1).any())
    if not uses_maddubs(dot, isa):
        return True
    return bool((largest_sums(packed, dot // WORD) <= LARGEST_SUM).all())


def largest_sums(packed: Array, words: int) -> Array:
    """The largest sum of weights of one sign that meet in 16 bits, per block and lane.

    `packed` is [..., depth in words, lanes, 4], as the kernels pack their weights. `words`
    neighbours, which divide the depth, are added before the sums widen. Result: [..., lanes].
    """
    *outer, depth, lanes, _ = packed.shape
    halves = packed.reshape(*outer, depth // words, words, lanes, 2, WORD // 2)
    positive = np.maximum(halves, 0).sum(axis=(-1, -4), dtype=np.float64)
    negative = np.minimum(halves, 0).sum(axis=(-1, -4), dtype=np.float64)
    made: Array = np.maximum(positive, -negative).max(axis=(-1, -3))
    return made
