"""exp, sigmoid, tanh and erf of float32 as polynomials, once loops are vectors.

Until then each is one call of one operand: expanded any earlier, an epilogue such as SiLU would be
a tree of thousands of nodes, as every use of an intermediate result repeats what made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import tirx

from lepton_tvm.ir.tir_rewrite import children, map_children, map_statements

__all__ = ["expand_math"]

# exp(f) = 1 + f + f^2 * (polynomial), |f| <= ln(2)/2, after Cephes (S. Moshier).
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
        5.0000001201e-1)  # fmt: skip
_EXP_LIMITS = (-88.3762626647949, 88.3762626647950)
# Quotients of an odd and an even polynomial, after Eigen; beyond the limit they are constant.
_TANH_LIMIT = 9.0
_TANH = (
    (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
     1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
    (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03),
)  # fmt: skip
_ERF_LIMIT = 4.0
_ERF = (
    (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
     -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
    (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
     -1.42647390514189e-02),
)  # fmt: skip

_LEAVES = (tvm.ir.TensorLoad, tirx.Ramp, tirx.IntImm, tirx.FloatImm, tirx.Var)


@tvm.transform.module_pass(opt_level=0, name="lepton.expand_math")
def expand_math(mod: tvm.IRModule, _context: Any) -> tvm.IRModule:
    """Replace calls of `tirx.exp`, `sigmoid`, `tanh` and `erf` on float32; others stay.

    Errors are below 3e-7 of the result, for exp near its limits 5e-6.
    """
    mod = mod.clone()
    for gvar, func in list(mod.functions.items()):
        if isinstance(func, tirx.PrimFunc):
            mod[gvar] = func.with_body(_visit(func.body))
    return mod


def _visit(stmt: Any) -> Any:
    if isinstance(stmt, tirx.BufferStore | tirx.Evaluate | tirx.Bind):
        value = _expand(stmt.value)
        if value.same_as(stmt.value):
            return stmt
        if isinstance(stmt, tirx.BufferStore):
            return tirx.BufferStore(stmt.buffer, value, list(stmt.indices))
        return (
            tirx.Evaluate(value) if isinstance(stmt, tirx.Evaluate) else tirx.Bind(stmt.var, value)
        )
    return map_statements(stmt, _visit)


def _expand(expr: Any) -> Any:
    if not _has_function(expr):
        return expr
    made = map_children(expr, _expand)
    function = _function(made)
    return made if function is None else function(made.args[0])


def _function(expr: Any) -> Callable[[Any], Any] | None:
    if not isinstance(expr, tvm.ir.Call):
        return None
    function = _FUNCTIONS.get(getattr(expr.op, "name", ""))
    return function if function and str(expr.ty.dtype).startswith("float32") else None


def _has_function(expr: Any) -> bool:
    """Whether a function stands in `expr`. Indices are not searched: most of a kernel is those."""
    if isinstance(expr, _LEAVES):
        return False
    if _function(expr) is not None:
        return True
    return any(_has_function(child) for child in children(expr))


def _exp(x: Any) -> Any:
    # a result beyond the largest float is x itself: infinity stays infinity
    return _named(x, lambda v: tirx.Max(_exp_within_limits(v), v))


def _sigmoid(x: Any) -> Any:
    one = _const(1.0, x)
    return one / (one + _exp_within_limits(_const(-1.0, x) * x))


def _exp_within_limits(x: Any) -> Any:
    low, high = (_const(v, x) for v in _EXP_LIMITS)
    clipped = tirx.Max(tirx.Min(x, high), low)

    def power(v: Any, n: Any) -> Any:
        rest = v - n * _const(0.6931471805599453, x)
        scale = tirx.Cast(_like(x, "int32"), n + _const(127.0, x)) << _const(23, x, "int32")
        two_to_n = tirx.reinterpret(_like(x, "float32"), scale)
        return two_to_n * _named(rest, lambda f: _horner(_EXP, f) * f * f + f + _const(1.0, x))

    def whole(v: Any) -> Any:
        n = tirx.floor(v * _const(1.44269504088896341, x) + _const(0.5, x))
        return _named(n, lambda m: power(v, m))

    return _named(clipped, whole)


def _quotient(coefficients: tuple[Sequence[float], Sequence[float]], limit: float) -> Any:
    over, under = coefficients

    def function(x: Any) -> Any:
        clipped = tirx.Max(tirx.Min(x, _const(limit, x)), _const(-limit, x))

        def of_square(v: Any, square: Any) -> Any:
            return v * _horner(over, square) / _horner(under, square)

        return _named(clipped, lambda v: _named(v * v, lambda square: of_square(v, square)))

    return function


def _horner(coefficients: Sequence[float], x: Any) -> Any:
    made = _const(coefficients[0], x)
    for c in coefficients[1:]:
        made = made * x + _const(c, x)
    return made


def _named(value: Any, body: Callable[[Any], Any]) -> Any:
    """`body` of a variable that holds `value`, so that it is written down once."""
    var = tirx.Var("v", str(value.ty.dtype))
    return tirx.Let(var, value, body(var))


def _lanes(x: Any) -> int:
    return int(tvm.DataType(str(x.ty.dtype)).lanes)


def _like(x: Any, dtype: str) -> str:
    return dtype if _lanes(x) == 1 else f"{dtype}x{_lanes(x)}"


def _const(value: float, x: Any, dtype: str = "float32") -> Any:
    made = tirx.const(value, dtype)
    return made if _lanes(x) == 1 else tirx.Broadcast(made, _lanes(x))


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "tirx.exp": _exp,
    "tirx.sigmoid": _sigmoid,
    "tirx.tanh": _quotient(_TANH, _TANH_LIMIT),
    "tirx.erf": _quotient(_ERF, _ERF_LIMIT),
}
