"""A tensor intrinsic declared once: what an instruction computes, and the code that carries it out.

TVM wants two functions for each: a description, which it looks for in a loop nest, and an
implementation, which it puts in its place. Both are built here from one record, statement by
statement: the textual front end of TVM costs about 0.1 s an intrinsic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

from tvm.s_tir import TensorIntrin
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

__all__ = ["Intrinsic", "Operand", "Strides", "register"]

#: Elements from one index of a dimension to the next, None for any number. Empty: no strides, the
#: elements lie one behind the other.
Strides: TypeAlias = tuple[int | None, ...]


@dataclass(frozen=True)
class Operand:
    """A buffer of an intrinsic; `code_strides` are strides that the description leaves out."""

    shape: tuple[int, ...]
    dtype: str
    scope: str = "global"
    strides: Strides = ()
    code_strides: Strides = ()
    align: int = -1
    offset_factor: int = 1

    def __post_init__(self) -> None:
        for strides in (self.strides, self.code_strides):
            if strides and len(strides) != len(self.shape):
                raise ValueError(f"a buffer of shape {self.shape} has not the strides {strides}")


@dataclass(frozen=True)
class Intrinsic:
    """The last of `operands` at each point of the `spatial` axes += `term`, or = if not `adds`.

    `loops` maps letters to extents, outermost first. An axis is a word of these letters: "vj" runs
    through the loops v and j, v outermost. `term` takes the other operands, then the spatial and
    the `reduced` axes, and returns a value. `code` takes all operands and issues the statements of
    the implementation. An intrinsic without spatial axes has a single result.
    """

    name: str
    operands: tuple[Operand, ...]
    loops: Mapping[str, int]
    spatial: tuple[str, ...]
    reduced: tuple[str, ...]
    term: Callable[..., Any]
    code: Callable[..., None]
    adds: bool = True

    def __post_init__(self) -> None:
        if sorted("".join(self.spatial + self.reduced)) != sorted(self.loops):
            raise ValueError(f"{self.name}: every loop belongs to one axis")
        shape = self.operands[-1].shape
        if self._extents(self.spatial) != ([*shape] if self.spatial else [1]):
            raise ValueError(f"{self.name}: the spatial axes do not cover a result of {shape}")

    def _extents(self, axes: tuple[str, ...]) -> list[int]:
        return [self.extent(axis) for axis in axes] or [1]

    def extent(self, axis: str) -> int:
        """How many points an axis has."""
        return prod(self.loops[letter] for letter in axis)


def register(intrinsic: Intrinsic) -> str:
    """Make an intrinsic known to TVM's `tensorize`, and return its name."""
    desc = _function(intrinsic, "desc", [o.strides for o in intrinsic.operands], _nest)
    strides = [o.code_strides or o.strides for o in intrinsic.operands]
    impl = _function(intrinsic, "impl", strides, lambda _, buffers: intrinsic.code(*buffers))
    TensorIntrin.register(intrinsic.name, desc, impl, override=True)
    return intrinsic.name


def _function(
    intrinsic: Intrinsic,
    name: str,
    strides: list[Strides],
    body: Callable[[Intrinsic, list[Any]], None],
) -> Any:
    """A function of the operands whose only block says what it reads and writes."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            handles = [T.arg(f"operand{i}", T.handle()) for i in range(len(strides))]
            buffers = [
                _buffer(handle, operand, stride)
                for handle, operand, stride in zip(
                    handles, intrinsic.operands, strides, strict=True
                )
            ]
            *inputs, result = [
                buffer[tuple(slice(0, extent) for extent in operand.shape)]
                for buffer, operand in zip(buffers, intrinsic.operands, strict=True)
            ]
            with T.sblock("root"):
                T.reads([result, *inputs] if intrinsic.adds else inputs)
                T.writes([result])
                body(intrinsic, buffers)
        return builder.get()


def _buffer(handle: Any, operand: Operand, strides: Strides) -> Any:
    return T.match_buffer(
        handle,
        operand.shape,
        operand.dtype,
        strides=[T.int32() if stride is None else stride for stride in strides] or None,
        scope=operand.scope,
        align=operand.align,
        offset_factor=operand.offset_factor,
    )


def _nest(intrinsic: Intrinsic, buffers: list[Any]) -> None:
    """The loops of the description, and in them the block of one term."""
    *inputs, result = buffers
    with ExitStack() as frames:
        loops = {
            letter: frames.enter_context(T.serial(0, extent))
            for letter, extent in intrinsic.loops.items()
        }
        frames.enter_context(T.sblock("update"))
        spatial = [_axis(T.axis.spatial, intrinsic, loops, a) for a in intrinsic.spatial]
        reduced = [_axis(T.axis.reduce, intrinsic, loops, a) for a in intrinsic.reduced]
        place = spatial or [0]
        term = intrinsic.term(*inputs, *spatial, *reduced)
        T.buffer_store(result, result[tuple(place)] + term if intrinsic.adds else term, place)


def _axis(
    kind: Callable[[int, Any], Any], intrinsic: Intrinsic, loops: Mapping[str, Any], axis: str
) -> Any:
    value = loops[axis[0]]
    for letter in axis[1:]:
        value = value * intrinsic.loops[letter] + loops[letter]
    return kind(intrinsic.extent(axis), value)
