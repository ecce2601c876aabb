"""A Relax module as text and arrays: its constants lifted to parameters of `main`, and bound again.

TVM's own JSON holds tensors as base64; writing and reading it takes eight times their memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

__all__ = ["SerializedModule", "join_module", "npy_array", "split_module", "weight_array"]

_NUMPY = frozenset(
    {
        "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "float32", "float64", "bool",
    }
)  # fmt: skip
"""Types that a `.npy` file can hold; weights of others (bfloat16, float8) are kept as bytes."""


@dataclass(frozen=True)
class SerializedModule:
    """The JSON of a module without the weights of `main`, and these as TVM tensors, in order."""

    text: str
    weights: tuple[tvm.runtime.Tensor, ...]


def split_module(module: tvm.IRModule) -> SerializedModule:
    """The text and the weights of a module; the tensors are shared with it, not copied.

    Where binding the weights again would not give the very same module, they stay in the text.
    """
    lifted, weights = _lift(module)
    if tvm_ffi.structural_equal(_bind(lifted, weights), module):
        return SerializedModule(tvm.ir.save_json(lifted), tuple(weights))
    return SerializedModule(tvm.ir.save_json(module), ())


def join_module(text: str, weights: Sequence[tvm.runtime.Tensor]) -> tvm.IRModule:
    """The module of `split_module`. Raises `ValueError` for text or weights that do not fit."""
    module = tvm.ir.load_json(text)
    if not isinstance(module, tvm.IRModule):
        raise ValueError("it does not hold a module")
    if "main" not in {var.name_hint for var in module.get_global_vars()}:
        raise ValueError("it does not hold a module with a function 'main'")
    return _bind(module, weights)


def weight_array(tensor: tvm.runtime.Tensor) -> np.ndarray[Any, Any]:
    """A weight as an array that `.npy` can hold."""
    array = tensor.numpy()
    return (
        array
        if str(tensor.dtype) in _NUMPY
        else np.asarray(array, order="C").reshape(-1).view(np.uint8)
    )


def npy_array(array: np.ndarray[Any, Any], dtype: str, shape: Iterable[int]) -> tvm.runtime.Tensor:
    """The weight of `weight_array`, as a tensor of `dtype` and `shape`.

    Raises `ValueError` where the array is of another type or size.
    """
    shape = tuple(shape)
    if dtype not in _NUMPY and array.dtype == np.uint8:
        array = array.view(np.dtype(dtype)).reshape(shape)  # ml_dtypes registers bfloat16 and such
    if str(array.dtype) != dtype or array.shape != shape:
        found = f"{array.dtype}{list(array.shape)}"
        raise ValueError(f"a weight is {found}, but the manifest says {dtype}{list(shape)}")
    return tvm.runtime.tensor(np.asarray(array, order="C"))


@relax.expr_functor.mutator
class _Lift(relax.PyExprMutator):
    """Replaces every tensor constant by a variable of its type; a shared one by the same."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[tvm.ir.GenericConst, relax.Var] = {}
        self.variables: list[relax.Var] = []
        self.weights: list[tvm.runtime.Tensor] = []

    def visit_generic_const_(self, op: tvm.ir.GenericConst) -> tvm.ir.Expr:
        if not isinstance(op.value, tvm.runtime.Tensor):
            return op
        if op in self.seen:
            return self.seen[op]
        variable = relax.Var(f"weight_{len(self.variables)}", op.ty)
        self.seen[op] = variable
        self.variables.append(variable)
        self.weights.append(op.value)
        return variable


def _lift(module: tvm.IRModule) -> tuple[tvm.IRModule, list[tvm.runtime.Tensor]]:
    lift = _Lift()
    main = module["main"]
    body = lift.visit_expr(main.body)
    params = [*main.params, *lift.variables]
    made = relax.Function(params, body, main.ret_ty, main.is_pure, main.attrs, main.span)
    lifted = module.clone()
    lifted.update_func(lifted.get_global_var("main"), made)
    return lifted, lift.weights


def _bind(module: tvm.IRModule, weights: Sequence[tvm.runtime.Tensor]) -> tvm.IRModule:
    """Bind the last parameters of `main` to the weights."""
    if not weights:
        return module
    params = list(module["main"].params)
    if len(params) < len(weights):
        raise ValueError(f"{len(weights)} weights for {len(params)} parameters")
    values = dict(zip(params[-len(weights) :], weights, strict=True))
    return relax.transform.BindParams("main", values)(module)
