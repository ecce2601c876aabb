"""Steps that the templates of GPU products share: find the blocks, pad, fetch, finish."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm.s_tir import Schedule

from lepton_tvm.schedules.base import Block, Loop, block_iters, kernel_notes, same_block
from lepton_tvm.targets import Target
from lepton_tvm.targets.cuda import gpu_of

__all__ = [
    "FEW_ROWS",
    "Product",
    "bind_blocks",
    "copy_in_turns",
    "extent",
    "find_product",
    "fits_shared",
    "gpu_schedule",
    "pad_product",
    "spread",
]

#: Products of so few rows read every weight for next to nothing: `Reduction` shares the sums.
FEW_ROWS = 4


@dataclass(frozen=True)
class Product:
    """The blocks of a fused function around its product, padded to whole tiles.

    `rows` and `columns` make the operands, `store` writes the only output, epilogue included.
    """

    reduction: Block
    rows: Block
    columns: Block
    store: Block
    ranks: int


def find_product(sch: Schedule) -> tuple[Block, tuple[int, int, int], str] | None:
    """The block annotated `gemm`, its rows, columns and depth, and the type that is multiplied."""
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    noted = [(b, kernel_notes(sch, b)) for b in blocks]
    found = [(b, notes) for b, notes in noted if notes is not None and notes.kernel == "gemm"]
    if len(found) != 1:
        return None
    block, notes = found[0]
    extents = [int(sch.get(loop).extent) for loop in sch.get_loops(block)]
    return block, (extents[-3], extents[-2], extents[-1]), notes.operand


def fits_shared(size: int, target: Target) -> None:
    """Raise ValueError where tiles of `size` bytes do not fit a block's shared memory."""
    if size > gpu_of(target).shared_bytes:
        raise ValueError(
            f"tiles of {size} bytes do not fit the {gpu_of(target).shared_bytes} bytes of shared "
            "memory of a thread block"
        )


def pad_product(sch: Schedule, block: Block, tile: tuple[int, int, int]) -> Product | None:
    """Round the product up to whole tiles; None when the function has more than one output.

    The operands' producers and the epilogue are inlined, so that four blocks are left.
    """
    root = sch.get_sblock("root")
    outputs = sch.get_output_blocks(root)
    if len(outputs) != 1:
        return None
    store = outputs[0]
    ranks = len(sch.get_loops(block)) - 3
    product_shape = [int(sch.get(loop).extent) for loop in sch.get_loops(block)][:-1]
    sch.pad_einsum(block, [1] * ranks + list(tile))
    producers = list(sch.get_producers(block))
    if len(producers) != 2:
        raise ValueError("the operands of the product must be two blocks")
    reads = [r.source.name for r in sch.get(block).reads]
    by_name = {sch.get(p).writes[0].source.name: p for p in producers}
    rows, columns = (by_name[name] for name in reads[-2:])
    keep = [block, rows, columns, store]
    for other in sch.get_child_blocks(root):
        if not any(same_block(sch, other, k) for k in keep):
            sch.compute_inline(other)
    if ranks == 0:
        flatten_rows(sch, store)
    written = [int(sch.get(loop).extent) for loop in sch.get_loops(store)]
    if math.prod(written) != math.prod(product_shape):
        raise ValueError(f"the epilogue has the shape {written}, the product {product_shape}")
    return Product(block, rows, columns, store, ranks)


def flatten_rows(sch: Schedule, store: Block) -> None:
    """Make the storing block two-dimensional, as the product is: all rows, columns."""
    extents = [int(sch.get(loop).extent) for loop in sch.get_loops(store)]
    if len(extents) == 2:
        return

    def flat(*index: tvm.tirx.Expr) -> list[tvm.tirx.Expr]:
        row = index[0] if len(index) > 1 else 0
        for extent, i in zip(extents[1:-1], index[1:-1], strict=True):
            row = row * extent + i
        return [row, index[-1]]

    sch.transform_block_layout(store, tvm.tirx.IndexMap.from_func(flat, ndim=len(extents)))


def bind_blocks(
    sch: Schedule, batch: Sequence[Loop], rows: Loop, columns: Loop, target: Target
) -> Loop:
    """Bind the loops over tiles, which lie next to each other: rows to x, columns to y, batch to z.

    What is more than y or z may have goes to x, which may have 2^31. Answers the innermost loop.
    """
    limits = gpu_of(target).extents
    if batch:
        matrix = sch.fuse(*batch)
        if int(sch.get(matrix).extent) > limits["blockIdx.z"]:
            rows = sch.fuse(matrix, rows)
        else:
            sch.bind(matrix, "blockIdx.z")
    if int(sch.get(columns).extent) > limits["blockIdx.y"]:
        rows = columns = sch.fuse(rows, columns)
    else:
        sch.bind(columns, "blockIdx.y")
    sch.bind(rows, "blockIdx.x")
    return columns


def copy_in_turns(
    sch: Schedule, loops: Sequence[Loop], threads: tuple[int, int], vector: int
) -> None:
    """Spread the loops of a copy over all `threads` (y, x) of a block, `vector` elements each."""
    vector = math.gcd(vector, int(sch.get(loops[-1]).extent))
    fused = sch.fuse(*loops)
    _, y, x, elements = sch.split(fused, [None, *threads, vector])
    sch.bind(y, "threadIdx.y")
    sch.bind(x, "threadIdx.x")
    if vector > 1:
        sch.vectorize(elements)


def extent(sch: Schedule, block: Block, kind: str) -> int:
    """The product of the extents of a block's iterators of one kind."""
    loops = zip(sch.get_loops(block), block_iters(sch, block), strict=True)
    return math.prod(int(sch.get(loop).extent) for loop, letter in loops if letter == kind)


def spread(sch: Schedule, block: Block, threads: int) -> Loop:
    """Bind all loops of a block without a reduction, one element per thread; the thread's loop."""
    loops = sch.get_loops(block) or [sch.add_unit_loop(block)]
    fused = sch.fuse(*loops)
    outer, thread = sch.split(fused, [None, min(threads, int(sch.get(fused).extent))])
    sch.bind(outer, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    return thread


def gpu_schedule(func: tvm.tirx.PrimFunc) -> Schedule:
    """A schedule of a copy of `func`, as `main`."""
    return Schedule(tvm.IRModule({"main": func}))
