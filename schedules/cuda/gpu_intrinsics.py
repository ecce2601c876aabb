"""What NVIDIA's GPUs multiply at once, as tensor intrinsics: tensor-core tiles and `dp4a`.

Tensor cores are reached through CUDA's `nvcuda::wmma` (16 x 16 x 16), for which TVM has code
generation; one warp works on a fragment together. Made when asked for, as on other targets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from lepton_tvm.schedules.intrinsic import Intrinsic, Operand, register

__all__ = ["TILE", "Fragments", "dp4a", "fragments"]

#: Rows, columns and depth of a fragment.
TILE = 16
_ALIGN = 32  # wmma wants pointers of 256 bits


@dataclass(frozen=True)
class Fragments:
    """Names of the intrinsics that work on fragments of one pair of types."""

    load_a: str
    load_b: str
    fill: str
    multiply: str
    store: str


@functools.cache
def fragments(operand: str, total: str) -> Fragments:
    """Both operands lie as [rows, depth] tiles of consecutive memory in `shared`."""
    stem = f"lepton.wmma_{operand}"
    return Fragments(
        _load(f"{stem}_load_a", operand, "matrix_a", "row_major"),
        _load(f"{stem}_load_b", operand, "matrix_b", "col_major"),
        _fill(f"{stem}_fill", total),
        _multiply(f"{stem}_multiply", operand, total),
        _store(f"{stem}_store", total),
    )


def _index(fragment: Any) -> Any:
    """Which fragment of the buffer: fragments are TILE x TILE and lie in a row-major grid."""
    stride = fragment.strides[0]
    row = fragment.elem_offset // stride // TILE
    return row * (stride // TILE) + fragment.elem_offset % stride // TILE


def _fragment(dtype: str, role: str) -> Operand:
    return _tile(dtype, f"wmma.{role}", 64)


def _tile(dtype: str, scope: str, align: int) -> Operand:
    """The code takes tiles of any strides; the description leaves them out."""
    return Operand(
        (TILE, TILE), dtype, scope, code_strides=(None, None), align=align, offset_factor=TILE
    )


def _copy(name: str, source: Operand, target: Operand, code: Callable[..., None]) -> str:
    return register(
        Intrinsic(
            name=name,
            operands=(source, target),
            loops={"i": TILE, "j": TILE},
            spatial=("i", "j"),
            reduced=(),
            term=lambda A, i, j: A[i, j],
            code=code,
            adds=False,
        )
    )


def _load(name: str, dtype: str, role: str, layout: str) -> str:
    def code(A: Any, C: Any) -> None:
        T.evaluate(
            T.tvm_load_matrix_sync(
                C.data, TILE, TILE, TILE, _index(C), A.access_ptr("r"), A.strides[0], layout,
                dtype="handle",
            )
        )  # fmt: skip

    return _copy(name, _tile(dtype, "shared", _ALIGN), _fragment(dtype, role), code)


def _store(name: str, dtype: str) -> str:
    def code(A: Any, C: Any) -> None:
        T.evaluate(
            T.tvm_store_matrix_sync(
                A.data, TILE, TILE, TILE, _index(A), C.access_ptr("w"), C.strides[0], "row_major",
                dtype="handle",
            )
        )  # fmt: skip

    return _copy(name, _fragment(dtype, "accumulator"), _tile(dtype, "shared", _ALIGN), code)


def _fill(name: str, dtype: str) -> str:
    def code(C: Any) -> None:
        T.evaluate(
            T.tvm_fill_fragment(C.data, TILE, TILE, TILE, _index(C), T.float32(0), dtype="handle")
        )

    return register(
        Intrinsic(
            name=name,
            operands=(_fragment(dtype, "accumulator"),),
            loops={"i": TILE, "j": TILE},
            spatial=("i", "j"),
            reduced=(),
            term=lambda i, j: T.int32(0) if dtype == "int32" else T.float32(0),
            code=code,
            adds=False,
        )
    )


def _multiply(name: str, operand: str, total: str) -> str:
    def code(A: Any, B: Any, C: Any) -> None:
        T.evaluate(
            T.tvm_mma_sync(
                C.data, _index(C), A.data, _index(A), B.data, _index(B), C.data, _index(C),
                dtype="handle",
            )
        )  # fmt: skip

    return register(
        Intrinsic(
            name=name,
            operands=(
                _fragment(operand, "matrix_a"),
                _fragment(operand, "matrix_b"),
                _fragment(total, "accumulator"),
            ),
            loops={"i": TILE, "j": TILE, "k": TILE},
            spatial=("i", "j"),
            reduced=("k",),
            term=lambda A, B, i, j, k: T.cast(A[i, k], total) * T.cast(B[j, k], total),
            code=code,
        )
    )


@functools.cache
def dp4a() -> str:
    """C += sum of four products of signed bytes, in one instruction (compute capability 6.1)."""
    word = Operand((4,), "int8", "shared", align=4, offset_factor=4)

    def code(A: Any, B: Any, C: Any) -> None:
        a, b = A.vload([0], "int8x4"), B.vload([0], "int8x4")
        T.buffer_store(C, T.call_pure_extern("int32", "__dp4a", a, b, C[0]), [0])

    return register(
        Intrinsic(
            name="lepton.dp4a",
            operands=(word, word, Operand((1,), "int32", "local", align=4)),
            loops={"k": 4},
            spatial=(),
            reduced=("k",),
            term=lambda A, B, k: T.cast(A[k], "int32") * T.cast(B[k], "int32"),
            code=code,
        )
    )
