"""What surrounds products over AMX tiles: permission, padding copy, shares of threads, tiles."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import tirx

from lepton_tvm.kernels.amx_tiles import AmxShape
from lepton_tvm.schedules.statements import Expr, Stmt, integer, loop, pointer, run, sequence

__all__ = ["copy_nest", "in_shares", "permission", "tile_call", "with_tiles"]

# The system call's number, ARCH_REQ_XCOMP_PERM, and the number of the tiles' data (XTILEDATA).
_REQUEST = (158, 0x1023, 18)
_REFUSED = (
    "this process may not use AMX tiles: Linux refused arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA); "
    "it takes Linux 5.16 or newer on a CPU with AMX; compile the model for x86:vnni instead"
)


def permission() -> Stmt:
    """Ask Linux for the tile registers, an error of the call where it refuses.

    The request costs one cheap system call when it was granted before.
    """
    request = tirx.call_extern("int64", "syscall", *(integer(v, "int64") for v in _REQUEST))
    raised = tirx.call_extern(
        "int32", "TVMFFIErrorSetRaisedFromCStr", tvm.ir.StringImm("RuntimeError"),
        tvm.ir.StringImm(_REFUSED),
    )  # fmt: skip
    leave = tirx.call_intrin("int32", "tirx.tvm_throw_last_error")
    return tirx.IfThenElse(
        request != integer(0, "int64"), sequence([run(raised), run(leave)]), None
    )


def copy_nest(
    s: AmxShape, source: tirx.Buffer, copy: tirx.Buffer, item: int, parallel: bool
) -> Stmt:
    """Copy the activations line by line, `item` bytes per element, with `memcpy` and `memset`."""
    c = s.copy
    assert c is not None
    rows, right = c.phases * c.lines, c.length - c.left - c.source_length

    def fill(start: Expr, length: int) -> list[Stmt]:
        at, size = pointer(copy, start * item), integer(length * item, "int64")
        return [run(tirx.call_extern("handle", "memset", at, c.value, size))] if length else []

    def line_of(image: Expr, row: Expr) -> Stmt:
        start = image * c.size + row * c.length
        line = row - c.top
        if c.phases > 1:
            line = row % c.lines * c.phases + row // c.lines - c.top
        read = (image * c.source_lines + line) * c.source_length
        moved = tirx.call_extern(
            "handle", "memcpy", pointer(copy, (start + c.left) * item),
            pointer(source, read * item), integer(c.source_length * item, "int64"),
        )  # fmt: skip
        ends = fill(start + c.left + c.source_length, right)
        inside = sequence([*fill(start, c.left), run(moved), *ends])
        if rows == c.source_lines:
            return inside
        is_inside = tirx.all(line >= 0, line < c.source_lines)
        return tirx.IfThenElse(is_inside, inside, sequence(fill(start, c.length)))

    kind = tirx.ForKind.PARALLEL if parallel else tirx.ForKind.SERIAL
    nest = loop("line", s.images * rows, lambda i: line_of(i // rows, i % rows), kind)
    if not c.slack:
        return nest
    slack = loop("image", s.images, lambda i: sequence(fill((i + 1) * c.size - c.slack, c.slack)))
    return sequence([nest, slack])


def in_shares(count: int, shares: int, parallel: bool, body: Callable[[Expr, Expr], Stmt]) -> Stmt:
    """`body(first, end)` for nearly equal, contiguous shares of `count` iterations."""
    if shares == 1:
        return body(integer(0), integer(count))
    kind = tirx.ForKind.PARALLEL if parallel else tirx.ForKind.SERIAL
    return loop(
        "share", shares, lambda i: body(i * count // shares, (i + 1) * count // shares), kind
    )


def with_tiles(s: AmxShape, body: Callable[[tirx.Buffer], Stmt]) -> Stmt:
    """Configure the calling thread's tiles, run `body` with a buffer for sums, release them."""
    config = tirx.decl_buffer((8,), "int64", "config", scope="local", data_alignment=64)
    sums = tirx.decl_buffer(
        (s.row_tiles * s.tile_rows, s.block), "int32" if s.dot == 4 else "float32", "sums",
        scope="local", data_alignment=64,
    )  # fmt: skip
    words = enumerate(_configuration(s))
    return sequence(
        [
            tirx.AllocBuffer(config),
            tirx.AllocBuffer(sums),
            *[tirx.BufferStore(config, integer(word, "int64"), [i]) for i, word in words],
            tile_call("ldtilecfg", pointer(config)),
            body(sums),
            tile_call("tilerelease"),
        ]
    )


def tile_call(name: str, *args: Expr) -> Stmt:
    """An instruction of the tile unit, by the last part of its name in LLVM."""
    return run(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *args))


def _configuration(s: AmxShape) -> list[int]:
    """The 64 bytes of a tile configuration (palette 1) as eight 64-bit words."""
    left, right = s.step // s.dot * 4, s.step // s.dot
    shapes = (
        [(s.tile_rows, 64)] * s.sum_registers
        + [(s.tile_rows, left)] * s.left_registers
        + [(right, 64)] * s.right_registers
    )
    data = bytearray(64)
    data[0] = 1
    for tile, (rows, width) in enumerate(shapes):
        data[16 + 2 * tile], data[48 + tile] = width, rows
    return [int.from_bytes(data[i : i + 8], "little", signed=True) for i in range(0, 64, 8)]
