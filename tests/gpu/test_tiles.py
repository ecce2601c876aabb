"""The tile that a product takes untuned, and how it lies in shared memory."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
import tvm
from tvm import te

from lepton_tvm.compiler import build_cuda
from lepton_tvm.kernels.gemm import GemmShape, gemm
from lepton_tvm.schedules.apply import apply_schedules
from lepton_tvm.schedules.base import Decided
from lepton_tvm.schedules.cuda.block_tiles import (
    Tile,
    Work,
    best_block,
    best_tile,
    cycles,
    resident,
)
from lepton_tvm.targets import parse_target
from lepton_tvm.targets.cuda import GPUS
from tests.gpu.banks import SIZES, store_conflicts

A100 = GPUS["sm_80"]


def tiles() -> list[Tile]:
    """Square ones of two depths, of bytes on tensor cores."""
    return [
        Tile(side, side, depth, 128, 1, 2, 2 * side * depth + side * side * 4)
        for side in (32, 64, 128)
        for depth in (32, 128)
    ]


def test_few_tiles_are_made_smaller_and_their_steps_deeper() -> None:
    picture = Work(1, 49, 512, 4608, 1, 1024)  # a late layer of ResNet-50
    best = best_tile(tiles(), picture, A100)
    assert (best.rows, best.depth) == (32, 128)


def test_many_tiles_are_made_larger() -> None:
    batch = Work(1, 100_352, 256, 2304, 1, 1024)  # a middle layer, for 512 pictures
    assert best_tile(tiles(), batch, A100).rows == 64
    # twice the work takes twice as long where the GPU is full
    rows = (100_000, 200_000)
    half, whole = (cycles(tiles()[2], Work(1, n, 256, 512, 1, 1024), A100) for n in rows)
    assert 1.8 < whole / half < 2.2


def test_what_does_not_fit_is_not_taken() -> None:
    small = Tile(32, 32, 32, 128, 1, 2, 6144)
    large = Tile(128, 128, 128, 128, 1, 2, A100.shared_bytes + 1)
    work = Work(1, 100_000, 4096, 4096, 1, 1024)
    assert best_tile([large, small], work, A100) == small


def test_blocks_that_a_multiprocessor_holds() -> None:
    def held(threads: int, sums: int, shared: int, arch: str = "sm_80") -> int:
        return resident(Tile(threads, sums, 16, threads, 1, 2, shared), GPUS[arch])

    assert held(128, 16, 31 * 1024) == 164 // 32  # shared memory
    assert held(512, 1, 0) == 65536 // (512 * 49)  # registers
    assert held(1024, 1, 0, "sm_75") == 1024 // 1024  # threads
    assert held(1024, 255, 0) == 1  # never none


def test_few_results_go_to_more_and_smaller_blocks() -> None:
    assert best_block(108 * 256, A100) == 256
    assert best_block(107 * 256, A100) == 128
    assert best_block(1000, A100) == 64


def source(
    operand: str,
    target: str,
    decisions: Mapping[str, int],
    extents: tuple[int, int, int] = (128, 128, 512),
) -> tuple[str, str | None]:
    """The CUDA code of a product of so many rows, columns and depth; the rule that made it."""
    m, n, k = extents
    shape = GemmShape((), (m,), m, n, k, operand, 16)
    a = te.placeholder((m, k), "uint8" if operand == "int8" else operand, name="a")
    w = te.placeholder((n, k), operand, name="w")
    out = gemm(shape, lambda _, row, i: a[row, i], lambda _, column, i: w[column, i])
    module = tvm.IRModule({"main": te.create_prim_func([a, w, out])})
    goal = parse_target(target)
    module, (applied,) = apply_schedules(module, goal, lambda _: Decided(decisions))
    kept: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_cuda, "compile_binary", lambda code, archs: kept.append(code))
        build_cuda.build_kernels(module, goal)
    return kept[0], applied.rule


TENSOR = [("int8", "cuda:sm_80", 32, {"block_rows": 32, "block_columns": 64, "block_depth": d})
          for d in (16, 32, 64, 256)]  # fmt: skip
TENSOR += [("bfloat16", "cuda:sm_80", 32, {"block_rows": 64, "block_columns": 32, "block_depth": d})
           for d in (16, 32, 128)]  # fmt: skip
THREADS = [
    (operand, target, 16, {"thread_rows": r, "thread_columns": c, "block_depth": d})
    for operand, target in (("int8", "cuda:sm_61"), ("float32", "cuda:sm_80"))
    for r, c, d in ((1, 2, 16), (4, 8, 16), (8, 4, 32), (2, 4, 64))
]


@pytest.mark.parametrize(("operand", "target", "threads_x", "decisions"), [*TENSOR, *THREADS])
def test_stores_to_shared_memory_meet_each_bank_once(
    operand: str, target: str, threads_x: int, decisions: dict[str, int]
) -> None:
    code, rule = source(operand, target, decisions)
    assert rule in ("cuda.tensor_product", "cuda.thread_product")
    assert store_conflicts(code, threads_x) == {"rows_shared_ptr": 1, "columns_shared_ptr": 1}


@pytest.mark.parametrize(("operand", "target", "threads_x", "decisions"), [*TENSOR[2:], *THREADS])
def test_tiles_that_reach_beyond_a_product_are_copied_in_vectors_too(
    operand: str, target: str, threads_x: int, decisions: dict[str, int]
) -> None:
    code, _ = source(operand, target, decisions, (196, 80, 480))
    found = store_conflicts(code, threads_x)  # of vectors only
    assert len(found) == 2
    assert set(found.values()) == {1}


def test_conflicts_are_seen() -> None:
    line = (
        "__shared__ alignas(64) signed char rows_shared_ptr[4096];\n"
        "*(int*)(rows_shared_ptr + ((((int)threadIdx.x) * {}) + (k * 7))) = v;"
    )
    assert store_conflicts(line.format(4), 32) == {"rows_shared_ptr": 1}
    assert store_conflicts(line.format(8), 32) == {"rows_shared_ptr": 2}
    assert store_conflicts(line.format(128), 32) == {"rows_shared_ptr": 32}


@pytest.mark.parametrize(("operand", "target", "threads_x", "decisions"), [TENSOR[3], THREADS[5]])
def test_shared_memory_is_what_was_estimated(
    operand: str, target: str, threads_x: int, decisions: dict[str, int]
) -> None:
    from lepton_tvm.schedules.cuda import gemm_simt, gemm_tensor

    code, rule = source(operand, target, decisions)
    tile = (gemm_tensor if rule == "cuda.tensor_product" else gemm_simt)._tile
    found = re.findall(r"__shared__ alignas\(\d+\) ([\w ]+?) \w+\[(\d+)\];", code)
    size = 1 if operand == "int8" else 4
    # the last of the tiles, words or lines needs no distance to another
    due = tile(*decisions.values(), size).shared
    assert due * 0.95 <= sum(SIZES[kind] * int(count) for kind, count in found) <= due
