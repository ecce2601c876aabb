"""What converters ask about the values they are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

__all__ = ["constant_of", "input_at", "shape_of"]


def constant_of(value: Any) -> np.ndarray[Any, Any] | None:
    """The array of a constant or static shape; None for anything computed at run time."""
    if isinstance(value, tvm.ir.GenericConst):
        return np.asarray(value.value.numpy())
    if isinstance(value, relax.ShapeExpr):
        dims = [d if isinstance(d, int) else getattr(d, "value", None) for d in value.values]
        return None if None in dims else np.array(dims, dtype=np.int64)
    return None


def shape_of(value: relax.Expr) -> list[int]:
    """The static shape of an expression."""
    return [int(dim) for dim in value.ty.shape.values]


def input_at(inputs: list[Any], index: int) -> Any:
    """The input of a node at a place; None for an optional one that is not given."""
    return inputs[index] if index < len(inputs) else None
