"""Short ways to write statements of a loop nest that no schedule primitive makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tvm import tirx

__all__ = ["Expr", "Stmt", "integer", "loop", "pointer", "run", "sequence"]

Stmt: TypeAlias = Any
Expr: TypeAlias = Any


def sequence(parts: Sequence[Stmt]) -> Stmt:
    """One statement after the other."""
    return parts[0] if len(parts) == 1 else tirx.SeqStmt(parts)


def run(call: Expr) -> Stmt:
    """A call for its effect."""
    return tirx.Evaluate(call)


def integer(value: int, dtype: str = "int32") -> Expr:
    """A constant."""
    return tirx.const(value, dtype)


def pointer(buffer: tirx.Buffer, bytes_before: Expr = 0) -> Expr:
    """The address of a place in a buffer; passes take the whole buffer as read and written.

    Not `access_ptr`, which TVM's lowering of bfloat16 buffers does not follow.
    """
    return tirx.handle_add_byte_offset(buffer.data, bytes_before)


def loop(
    name: str,
    extent: int,
    body: Callable[[Expr], Stmt],
    kind: Any = tirx.ForKind.SERIAL,
    first: Expr = 0,
) -> Stmt:
    """A loop from `first` up to `extent`; none around a body that runs once."""
    if extent == 1 and isinstance(first, int):
        return body(integer(0))
    var, start = tirx.Var(name, "int32"), tirx.convert(first)
    return tirx.For(var, start, extent - start, kind, body(var))
