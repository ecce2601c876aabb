"""The loop of `chains` for AMX: four tiles of sums, two of each factor, nothing but products."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.script import tirx as T

from lepton_tvm.measure.peak.chains import Chain

__all__ = ["TILE_CHAINS", "TILE_WORDS", "tile_func"]

#: 32-bit words of a tile: 16 rows of 64 bytes.
TILE_WORDS = 256
_SUM_TILES = 4
_ROWS, _ROW_BYTES = 16, 64
# arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA): Linux gives a process its tiles only when asked.
_ARCH_PRCTL, _REQUEST, _XTILEDATA = 158, 0x1023, 18

#: A row of a tile of sums is one register of 16 lanes; each lane adds a row times a column.
TILE_CHAINS: tuple[Chain, ...] = (
    Chain("tdpbusd", "int8", "amx", 16, 64, "int32", tiles=_SUM_TILES),
    Chain("tdpbf16ps", "bfloat16", "amx", 16, 32, "float32", tiles=_SUM_TILES),
)


def tile_func(chain: Chain, slices: int) -> tvm.tirx.PrimFunc:
    """`run(a, b, c, steps)`: c += a * b on four tiles, `steps` times, for each of `slices`.

    a, b: int32 [256], one tile each (16 rows; b's rows hold neighbouring depths side by side);
    c: int32 [slices, 1024], four tiles of sums, read before and written after.
    """

    def amx(name: str, *args: Any) -> Any:
        return T.call_llvm_intrin("void", f"llvm.x86.{name}", *args)

    def move(name: str, tile: Any, address: Any) -> Any:
        return amx(name, T.Cast("int8", tile), address, T.int64(_ROW_BYTES))

    @T.prim_func(s_tir=True)
    def run(a_: T.handle, b_: T.handle, c_: T.handle, steps: T.int64) -> None:
        T.func_attr({"global_symbol": "run", "tirx.noalias": True})
        a = T.match_buffer(a_, (TILE_WORDS,), "int32")
        b = T.match_buffer(b_, (TILE_WORDS,), "int32")
        c = T.match_buffer(c_, (slices, _SUM_TILES * TILE_WORDS), "int32")
        for t in T.parallel(slices):
            T.evaluate(T.call_extern("int64", "syscall", _ARCH_PRCTL, _REQUEST, _XTILEDATA))
            config = T.alloc_buffer((64,), "uint8", scope="local")
            for i in T.serial(64):
                config[i] = T.uint8(0)
            config[0] = T.uint8(1)  # palette
            for i in T.serial(8):
                config[16 + 2 * i] = T.uint8(_ROW_BYTES)
                config[48 + i] = T.uint8(_ROWS)
            T.evaluate(amx("ldtilecfg", config.data))
            for j in T.unroll(_SUM_TILES):
                T.evaluate(move("tileloadd64", j, T.address_of(c[t, j * TILE_WORDS])))
            for j in T.unroll(2):
                T.evaluate(move("tileloadd64", 4 + j, T.address_of(a[0])))
                T.evaluate(move("tileloadd64", 6 + j, T.address_of(b[0])))
            for _ in range(steps):
                for j in T.unroll(_SUM_TILES):
                    T.evaluate(
                        amx(
                            chain.instruction,
                            T.Cast("int8", j),
                            T.Cast("int8", 4 + j // 2),
                            T.Cast("int8", 6 + j % 2),
                        )
                    )
            for j in T.unroll(_SUM_TILES):
                T.evaluate(move("tilestored64", j, T.address_of(c[t, j * TILE_WORDS])))
            T.evaluate(amx("tilerelease"))

    return run
