"""Loops that do nothing but multiply and add in vector registers: what one instruction can do.

Each loop holds `sums` registers that do not depend on one another, enough to hide the latency of
the instruction, and changes every one of them in every step. Sums are read before the loop and
written after it, so nothing can be left out and nothing else is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.script import tirx as T

from lepton_tvm.targets import ISAS, Isa

__all__ = ["CHAINS", "Chain", "chain_func", "chains_of"]

Step = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Chain:
    """One way to multiply and add, on vector registers of `lanes` 32-bit lanes.

    `isa` is the first instruction-set level that has it. A step adds `macs` products to each lane
    of each of `sums` registers of type `dtype`. With AMX these are the rows of `tiles` tiles.
    """

    instruction: str
    precision: str
    isa: str
    lanes: int
    macs: int
    dtype: str
    tiles: int = 0

    @property
    def sums(self) -> int:
        """Independent registers: all but the operands', and what a sequence needs in between."""
        if self.tiles:
            return 16 * self.tiles
        return 12 if ISAS[self.isa].registers == 16 else 24

    @property
    def ops_per_step(self) -> int:
        """Operations of a step; a multiply-add is two."""
        return 2 * self.macs * self.lanes * self.sums

    @property
    def moving(self) -> bool:
        """Whether the products are made apart from the sums, see `chain_func`."""
        return self.instruction in ("pmaddwd", "pmaddubsw")

    @property
    def words(self) -> int:
        """32-bit words of the sums of one thread."""
        return self.lanes * self.sums


def _chains(isa: Isa) -> tuple[Chain, ...]:
    floats = "fma" if "fma" in isa.flags else "mul+add"
    lanes = isa.lanes
    return (
        Chain(floats, "float32", isa.name, lanes, 1, "float32"),
        Chain("pmaddwd", "int8", isa.name, lanes, 2, "int32"),
        Chain("pmaddubsw", "int8", isa.name, lanes, 8, "int32"),
    )


#: Every level adds to those before it; a wider one has its own.
CHAINS: tuple[Chain, ...] = (
    *_chains(ISAS["sse"]),
    *_chains(ISAS["avx2"]),
    Chain("vpdpbusd", "int8", "avxvnni", 8, 4, "int32"),
    *_chains(ISAS["avx512"]),
    Chain("vpdpbusd", "int8", "vnni", 16, 4, "int32"),
    Chain("vdpbf16ps", "bfloat16", "bf16", 16, 2, "float32"),
)

_PMADDWD = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}
_PMADDUBSW = {
    4: "llvm.x86.ssse3.pmadd.ub.sw.128",
    8: "llvm.x86.avx2.pmadd.ub.sw",
    16: "llvm.x86.avx512.pmaddubs.w.512",
}

# TVM's code generator has no bfloat16 type, so this one is called through LLVM's own language.
_HELPERS = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @peak_vdpbf16ps_16(<16 x float> %sum, <16 x i32> %a, <16 x i32> %b) {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %made = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
    <16 x float> %sum, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %made
}
"""


def chains_of(flags: frozenset[str]) -> tuple[Chain, ...]:
    """The chains that a CPU with these flags can run."""
    return tuple(c for c in CHAINS if flags.issuperset(ISAS[c.isa].flags))


def chain_func(chain: Chain, slices: int) -> tvm.tirx.PrimFunc:
    """`run(a, b, c, steps)`: `steps` steps on each of `slices` sets of sums, in parallel.

    All are int32 words that hold the bits of the types in question. a [lanes] and b [words] are the
    factors, c [slices, words] the sums, read before and written after. A step adds a * b, with
    register j of b where the multiplication is an instruction of its own and with the first one
    otherwise; in the former case a is doubled (as int32) before every step: products of factors
    that stay the same would be computed once, before the loop. `fma` computes c * a + b;
    `pmaddubsw` makes two products of bytes, with a and its complement, which are added as int16
    before `pmaddwd` widens them, as kernels do.
    """
    lanes, sums, moving = chain.lanes, chain.sums, chain.moving
    held, words = f"{chain.dtype}x{lanes}", f"int32x{lanes}"
    step = _step(chain)

    @T.prim_func(s_tir=True)
    def run(a_: T.handle, b_: T.handle, c_: T.handle, steps: T.int64) -> None:
        T.func_attr({"global_symbol": "run", "tirx.noalias": True})
        a = T.match_buffer(a_, (lanes,), "int32")
        b = T.match_buffer(b_, (sums * lanes,), "int32")
        c = T.match_buffer(c_, (slices, sums * lanes), "int32")
        with T.attr(T.int32(0), "pragma_import_llvm", _HELPERS):
            for t in T.parallel(slices):
                acc = T.alloc_buffer((sums * lanes,), chain.dtype, scope="local")
                x = T.alloc_buffer((lanes,), "int32", scope="local")
                x[T.ramp(0, 1, lanes)] = a.vload([0], dtype=words)
                for j in T.unroll(sums):
                    acc[T.ramp(j * lanes, 1, lanes)] = T.reinterpret(
                        held, c.vload([t, j * lanes], dtype=words)
                    )
                for _ in range(steps):
                    if moving:
                        x[T.ramp(0, 1, lanes)] = x.vload([0], dtype=words) + x.vload(
                            [0], dtype=words
                        )
                    for j in T.unroll(sums):
                        acc[T.ramp(j * lanes, 1, lanes)] = step(
                            acc.vload([j * lanes], dtype=held),
                            x.vload([0], dtype=words),
                            b.vload([j * lanes if moving else 0], dtype=words),
                        )
                for j in T.unroll(sums):
                    c[t, T.ramp(j * lanes, 1, lanes)] = T.reinterpret(
                        words, acc.vload([j * lanes], dtype=held)
                    )

    return run


def _step(chain: Chain) -> Step:
    """The new sums from the old ones and two registers of factors, as int32 words."""
    lanes = chain.lanes
    held, sums = f"{chain.dtype}x{lanes}", f"int32x{lanes}"
    halves, quarters = f"int16x{2 * lanes}", f"int8x{4 * lanes}"
    call, cast = T.call_llvm_pure_intrin, T.reinterpret
    if chain.instruction in ("fma", "mul+add"):
        return lambda acc, a, b: acc * cast(held, a) + cast(held, b)
    if chain.instruction == "pmaddwd":
        return lambda acc, a, b: acc + call(sums, _PMADDWD[lanes], cast(halves, a), cast(halves, b))
    if chain.instruction == "pmaddubsw":
        ones, flip = T.broadcast(T.int16(1), 2 * lanes), T.broadcast(T.int32(-1), lanes)

        def bytes_(a: Any, b: Any) -> Any:
            return call(halves, _PMADDUBSW[lanes], cast(quarters, a), cast(quarters, b))

        return lambda acc, a, b: (
            acc + call(sums, _PMADDWD[lanes], bytes_(a, b) + bytes_(a ^ flip, b), ones)
        )
    if chain.instruction == "vpdpbusd":
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        return lambda acc, a, b: call(sums, name, acc, cast(quarters, a), cast(quarters, b))
    return lambda acc, a, b: T.call_pure_extern(held, f"peak_vdpbf16ps_{lanes}", acc, a, b)
