"""A loop that reads memory and adds up what it reads."""

from __future__ import annotations

import tvm
from tvm.script import tirx as T

from lepton_tvm.measure.caches import cache_bytes

__all__ = ["SUMS", "levels", "read_func"]

#: Registers that are summed into, so that no addition waits for another.
SUMS = 8
_MOST_MEMORY = 1 << 30


def levels(slices: int) -> dict[str, int]:
    """Level -> bytes that each of `slices` threads reads: data that lies in it and in none above.

    Half of a core's own caches, a quarter of the shared third level (a neighbour may use the rest),
    and four times the third level for memory.
    """
    sizes = cache_bytes()
    shared = {"L3": sizes[3] // 4, "memory": min(4 * sizes[3], _MOST_MEMORY)}
    own = {"L1": sizes[1] // 2, "L2": sizes[2] // 2}
    return {**own, **{name: size // slices for name, size in shared.items()}}


def read_func(lanes: int, words: int, slices: int) -> tvm.tirx.PrimFunc:
    """`run(data, sums, times)`: each of `slices` adds up its line of `data`, `times` times.

    data: int32 [slices, words]; sums: int32 [slices, SUMS * lanes], lane i of register j is the sum
    of the words whose index is j * lanes + i modulo SUMS * lanes. `words` is a multiple of that.
    """
    step, vec = SUMS * lanes, f"int32x{lanes}"

    @T.prim_func(s_tir=True)
    def run(data_: T.handle, sums_: T.handle, times: T.int64) -> None:
        T.func_attr({"global_symbol": "run", "tirx.noalias": True})
        data = T.match_buffer(data_, (slices, words), "int32")
        sums = T.match_buffer(sums_, (slices, SUMS * lanes), "int32")
        for t in T.parallel(slices):
            acc = T.alloc_buffer((SUMS * lanes,), "int32", scope="local")
            for j in T.unroll(SUMS):
                acc[T.ramp(j * lanes, 1, lanes)] = T.broadcast(T.int32(0), lanes)
            for _ in range(times):
                for i in range(words // step):
                    for j in T.unroll(SUMS):
                        acc[T.ramp(j * lanes, 1, lanes)] = acc.vload(
                            [j * lanes], dtype=vec
                        ) + data.vload([t, i * step + j * lanes], dtype=vec)
            for j in T.unroll(SUMS):
                sums[t, T.ramp(j * lanes, 1, lanes)] = acc.vload([j * lanes], dtype=vec)

    return run
