"""Single Relax expressions: op names, shapes, constants, substitution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tvm
import tvm_ffi
from tvm import relax

from lepton_tvm.errors import CompileError

__all__ = [
    "Array",
    "Expr",
    "argument_vars",
    "const_array",
    "constant",
    "dtype_of",
    "is_constant",
    "op_name",
    "same_structure",
    "scalar_of",
    "shape_of",
    "short_op",
    "substitute",
    "with_args",
    "with_attrs",
]

Array: TypeAlias = npt.NDArray[Any]
Expr: TypeAlias = Any  # a Relax expression; TVM's classes carry no usable static types


def argument_vars(expr: Expr) -> Iterator[relax.Var]:
    """Every variable read by `expr`, once per place, also inside tuples."""
    if isinstance(expr, relax.Var):
        yield expr
    elif isinstance(expr, relax.Tuple):
        for field in expr.fields:
            yield from argument_vars(field)
    elif isinstance(expr, relax.TupleGetItem):
        yield from argument_vars(expr.tuple_value)
    elif isinstance(expr, tvm.ir.Call):
        for arg in expr.args:
            yield from argument_vars(arg)


def op_name(expr: Expr) -> str:
    """`relax.nn.conv2d` for an op call, `call_tir:maximum` for a PrimFunc call, else ''.

    Digits that only keep PrimFunc names apart (`maximum12`) are dropped.
    """
    if not isinstance(expr, tvm.ir.Call):
        return ""
    name = getattr(expr.op, "name", "")
    if name == "relax.call_tir":
        return f"call_tir:{expr.args[0].name_hint.rstrip('0123456789')}"
    return str(name)


def short_op(expr: Expr) -> str:
    """The last word of the op, as used in binding names: `conv2d`, `add`, `tuple`."""
    if isinstance(expr, relax.Tuple):
        return "tuple"
    if isinstance(expr, relax.TupleGetItem):
        return "item"
    return op_name(expr).rsplit(".", 1)[-1].rsplit(":", 1)[-1] or "copy"


def shape_of(expr: Expr) -> tuple[int, ...]:
    """The static shape of a tensor expression; `CompileError` if unknown or symbolic."""
    ty = expr.ty
    shape = getattr(ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr | tuple | list | tvm_ffi.Array):
        raise CompileError(f"'{_label(expr)}' has no known shape ({ty}); fix the input shapes")
    dims = list(shape.values if isinstance(shape, relax.ShapeExpr) else shape)
    if not all(isinstance(d, tvm.tirx.IntImm) for d in dims):
        raise CompileError(f"'{_label(expr)}' has a symbolic shape {dims}; fix the input shapes")
    return tuple(int(d) for d in dims)


def dtype_of(expr: Expr) -> str:
    """The element type of a tensor expression, such as `float32`."""
    return str(expr.ty.dtype)


def is_constant(expr: Expr) -> bool:
    """True for a tensor constant."""
    return isinstance(expr, tvm.ir.GenericConst)


def const_array(expr: Expr) -> Array | None:
    """The array of a tensor constant (a copy), or None when `expr` is not constant."""
    if not is_constant(expr):
        return None
    array: Array = expr.value.numpy()
    return array


def scalar_of(expr: Expr) -> float | None:
    """The value of a constant with exactly one element (any rank), or None."""
    if not is_constant(expr) or int(np.prod(shape_of(expr), dtype=np.int64)) != 1:
        return None
    return float(expr.value.numpy().reshape(()))


def constant(array: npt.ArrayLike, dtype: str | None = None) -> Expr:
    """A tensor constant of `array` (or a number), made contiguous; `dtype` converts."""
    made = np.asarray(array, dtype=dtype)
    return relax.const(np.ascontiguousarray(made) if made.ndim else made, str(made.dtype))


def substitute(expr: Expr, mapping: Mapping[relax.Var, Expr]) -> Expr:
    """`expr` with variables replaced; the same object where nothing changes."""
    if isinstance(expr, relax.Var):
        return mapping.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        fields = [substitute(f, mapping) for f in expr.fields]
        same = all(a is b or a.same_as(b) for a, b in zip(fields, expr.fields, strict=True))
        return expr if same else relax.Tuple(fields)
    if isinstance(expr, relax.TupleGetItem):
        value = substitute(expr.tuple_value, mapping)
        return expr if value is expr.tuple_value else relax.TupleGetItem(value, expr.index)
    if isinstance(expr, tvm.ir.Call):
        args = [substitute(a, mapping) for a in expr.args]
        if all(a is b or a.same_as(b) for a, b in zip(args, expr.args, strict=True)):
            return expr
        return with_args(expr, args)
    return expr


def with_args(call: Expr, args: Sequence[Expr]) -> Expr:
    """`call` of other arguments."""
    return tvm.ir.Call(call.op, list(args), call.attrs, call.ty_args)


def with_attrs(call: Expr, args: Sequence[Expr] | None = None, **changes: Any) -> Expr:
    """`call` with some attributes (and, when given, its arguments) replaced.

    >>> with_attrs(conv, [x, hwio], data_layout="NHWC", kernel_layout="HWIO")  # doctest: +SKIP
    """
    info = type(call.attrs).__tvm_ffi_type_info__
    fields = {f.name: getattr(call.attrs, f.name) for f in info.fields}
    unknown = sorted(set(changes) - set(fields))
    if unknown:
        raise CompileError(f"{op_name(call)} has no attribute {unknown}; it has {sorted(fields)}")
    attrs = tvm.ir.make_node(info.type_key, **{**fields, **changes})
    return tvm.ir.Call(call.op, list(call.args if args is None else args), attrs, call.ty_args)


def same_structure(a: tvm.IRModule | Expr, b: tvm.IRModule | Expr) -> bool:
    """Structural equality, constants by value, variable names ignored."""
    return bool(tvm_ffi.structural_equal(a, b, map_free_vars=True))


def _label(expr: Expr) -> str:
    return str(expr.name) if isinstance(expr, relax.Var) else short_op(expr)
