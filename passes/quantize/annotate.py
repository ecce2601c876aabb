"""Deciding what is quantized: which ops, which tensors, whose scale, and why the rest is not.

The plan puts a quantize on a tensor, not on an op: once, shared by all its readers, and at the end
of the elementwise chain behind a convolution, so that the chain stays in the kernel's epilogue.

1. Every conv2d and matmul with constant weight is an anchor; the tensor it reads is quantized.
2. Through max-pool, reshape and transpose the quantize moves up to the producer (same scale).
3. Pools, spatial means and concats that are fed by int8 kernels read uint8 as well.
4. Of two int8 kernels that meet in an add, the later one stores its result as uint8.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import tvm
from tvm import relax

from lepton_tvm.errors import InputError
from lepton_tvm.ir import graph as g
from lepton_tvm.ir.ops import OPS
from lepton_tvm.passes.base import Skipped
from lepton_tvm.passes.quantize import ops
from lepton_tvm.passes.quantize.config import QuantizeConfig
from lepton_tvm.passes.quantize.flow import Flow
from lepton_tvm.passes.quantize.plan import Plan
from lepton_tvm.passes.quantize.schemes import Scheme

__all__ = ["annotate"]

# Words of the column `quantize` of `ir/ops.py` -> why those ops stay in float.
_REASONS = {
    "float_moments": "kept in float: mean and variance need more than 8 bits",
    "float_result": "kept in float: its result needs more than 8 bits",
}


def annotate(mod: tvm.IRModule, config: QuantizeConfig | None = None) -> Plan:
    """Decide what of the canonical float module `mod` is quantized; `mod` is not changed.

    Raises `InputError` for a skip pattern that matches no op which could be quantized.
    Does not handle: conv1d, conv2d_transpose, recurrent ops (they stay in float, with the reason).
    """
    return _Annotator(mod, config or QuantizeConfig()).plan()


class _Annotator:
    def __init__(self, mod: tvm.IRModule, config: QuantizeConfig) -> None:
        func = g.main_of(mod)
        self.params = list(func.params)
        self.bindings = g.bindings_of(func)
        self.made = g.definitions(func)
        self.readers = g.consumers(func)
        self.returned = set(g.argument_vars(g.output_of(func)))
        self.order = {b.var: i for i, b in enumerate(self.bindings)}
        self.flow = Flow(func, ops.ELEMENTWISE)
        self.config = config
        self.scheme = config.scheme
        self.anchors: set[relax.Var] = set()
        self.pooled: set[relax.Var] = set()
        self.demanded: set[relax.Var] = set()
        self.shared: dict[relax.Var, relax.Var] = {}
        self.reasons: dict[relax.Var, str] = {}

    def plan(self) -> Plan:
        self._choose_anchors()
        self._follow_passthrough()
        self._choose_pools()
        self._store_one_of_two()
        self._follow_passthrough()
        self._share_scales()
        self._check_skip_patterns()
        names = [v for v in (*self.params, *self.order) if v in self.demanded]
        epilogues = [v for v in self.order if self._in_epilogue(v)]
        return Plan(
            anchors=tuple(v.name for v in self.order if v in self.anchors),
            pooled=tuple(v.name for v in self.order if v in self.pooled),
            tensors=tuple(v.name for v in names),
            shared={a.name: b.name for a, b in self.shared.items()},
            pixels=tuple(v.name for v in names if ops.is_pixels(self.made.get(v))),
            epilogues=len(epilogues),
            skipped=tuple(self._skipped(set(epilogues))),
        )

    def _choose_anchors(self) -> None:
        for var, call in self.made.items():
            if g.op_name(call) not in ops.ANCHORS:
                continue
            reason = self._asked_to_skip(var) or self._quantized(call) or ops.anchor_obstacle(call)
            if reason:
                self.reasons[var] = reason
                continue
            self.anchors.add(var)
            self.demanded.add(call.args[0])

    def _asked_to_skip(self, var: relax.Var) -> str | None:
        hits = [p for p in self.config.skip if fnmatchcase(var.name, p)]
        return f"left out by the skip pattern {hits[0]!r}" if hits else None

    def _quantized(self, call: g.Expr) -> str | None:
        weight = call.args[1]
        made = self.made.get(weight) if isinstance(weight, relax.Var) else None
        return "its weight is quantized already" if g.op_name(made) == "relax.dequantize" else None

    def _check_skip_patterns(self) -> None:
        kinds = ops.ANCHORS | ops.POOLS | ops.JOINS
        names = [v.name for v, call in self.made.items() if g.op_name(call) in kinds]
        for pattern in self.config.skip:
            if not any(fnmatchcase(n, pattern) for n in names):
                raise InputError(
                    f"skip pattern {pattern!r} matches no op that could be quantized; "
                    f"there are {_few(names)}"
                )

    def _follow_passthrough(self) -> None:
        """Quantize the operand, with the same scale, wherever a max-pool or reshape is asked for
        uint8, and let those ops hand on the uint8 that reaches them."""
        for var in reversed(self.order):
            call = self.made[var]
            if var in self.demanded and ops.passes_through(call):
                self.demanded.add(call.args[0])
        for var, call in self.made.items():
            if not ops.passes_through(call) or call.args[0] not in self.demanded:
                continue
            if var in self.returned:
                self.reasons[var] = "its result is an output of the model, which stays in float"
                continue
            self.demanded.add(var)
            self.shared[var] = call.args[0]

    def _choose_pools(self) -> None:
        """Pools, means and concats that int8 kernels feed read uint8."""
        for var, call in self.made.items():
            op = g.op_name(call)
            if op not in ops.POOLS | ops.JOINS:
                continue
            reason = self._pool_reason(var, call)
            if reason:
                self.reasons[var] = reason
                continue
            self.pooled.add(var)
            self.demanded.update(ops.data_operands(call))
            if op in ops.JOINS:
                self.demanded.add(var)

    def _pool_reason(self, var: relax.Var, call: g.Expr) -> str | None:
        operands = ops.data_operands(call)
        if asked := self._asked_to_skip(var):
            return asked
        if not operands or not all(isinstance(o, relax.Var) for o in operands):
            return "an operand is constant"
        if any(g.dtype_of(o) != "float32" for o in operands):
            return f"{g.dtype_of(operands[0])} data"
        if not all(self._comes_from_int8(o) for o in operands):
            return f"not fed by {self.scheme.name} kernels"
        if g.op_name(call) not in ops.JOINS:
            return ops.pool_obstacle(call)
        reaches = self._reaches_anchor(var)
        return None if reaches else f"no {self.scheme.name} kernel reads the result"

    def _comes_from_int8(self, expr: g.Expr, seen: dict[relax.Var, bool] | None = None) -> bool:
        """Whether `expr` is quantized already or is made by an int8 kernel and its epilogue."""
        if not isinstance(expr, relax.Var):
            return False
        if expr in self.demanded or expr in self.anchors or expr in self.pooled:
            return True
        seen = {} if seen is None else seen
        if expr not in seen:
            call = self.made.get(expr)
            chained = g.op_name(call) in ops.ELEMENTWISE or ops.passes_through(call)
            operands = ops.data_operands(call) if chained else ()
            seen[expr] = any(self._comes_from_int8(o, seen) for o in operands)
        return seen[expr]

    def _reaches_anchor(self, var: relax.Var) -> bool:
        pending, seen = [var], {var}
        while pending:
            for reader in self.readers[pending.pop()]:
                if reader.var in self.anchors:
                    return True
                if reader.var not in seen:
                    seen.add(reader.var)
                    pending.append(reader.var)
        return False

    def _store_one_of_two(self) -> None:
        """Where two activations meet, what has to be stored is stored as uint8.

        Of two anchors whose epilogues meet, the earlier takes the meeting op into its kernel, so
        that the result of the later is stored. A value that several kernels read is stored too.
        """
        for call in self.made.values():
            if g.op_name(call) not in ops.ELEMENTWISE:
                continue
            operands = [o for o in ops.data_operands(call) if isinstance(o, relax.Var)]
            if len(operands) != 2 or g.shape_of(operands[0]) != g.shape_of(operands[1]):
                continue
            left, right = (self._register_anchor(o, {}) for o in operands)
            if left is not None and right is not None and not left.same_as(right):
                first_is_later = self.order[left] > self.order[right]
                self.demanded.add(operands[0] if first_is_later else operands[1])
            self.demanded.update(o for o in operands if self._is_stored_stream(o))

    def _register_anchor(
        self, var: g.Expr, seen: dict[relax.Var, relax.Var | None]
    ) -> relax.Var | None:
        """The anchor in whose epilogue `var` still is, if nothing on the way is stored."""
        if not isinstance(var, relax.Var) or var in self.demanded:
            return None
        if var not in seen:
            seen[var] = None
            if not self.flow.stays_in_kernel(var):
                return None
            call = self.made.get(var)
            operands = ops.data_operands(call) if g.op_name(call) in ops.ELEMENTWISE else ()
            found = [var] if var in self.anchors else []
            found += [a for o in operands if (a := self._register_anchor(o, seen)) is not None]
            seen[var] = found[0] if found else None
        return seen[var]

    def _is_stored_stream(self, var: relax.Var) -> bool:
        """An int8 kernel's result that several kernels read, all of which end in uint8."""
        if var in self.demanded or self.flow.stays_in_kernel(var):
            return False
        return self._comes_from_int8(var) and self._ends_in_uint8(var, {})

    def _ends_in_uint8(self, var: relax.Var, seen: dict[relax.Var, bool]) -> bool:
        """Whether every way from `var` leads through elementwise ops to a quantized tensor."""
        if var in self.demanded:
            return True
        if var not in seen:
            seen[var] = var not in self.returned and all(
                g.op_name(r.value) in ops.ELEMENTWISE and self._ends_in_uint8(r.var, seen)
                for r in self.readers[var]
            )
        return seen[var]

    def _share_scales(self) -> None:
        """The operand of a concat that nobody else reads takes the scale of the concat."""
        for var in self.pooled:
            call = self.made[var]
            if g.op_name(call) not in ops.JOINS:
                continue
            for operand in ops.data_operands(call):
                alone = len(self.readers[operand]) == 1 and operand in self.made
                if alone and operand not in self.shared and operand not in self.pooled:
                    self.shared[operand] = var

    def _in_epilogue(self, var: relax.Var) -> bool:
        call = self.made[var]
        return g.op_name(call) in ops.ELEMENTWISE and self._comes_from_int8(var)

    def _skipped(self, epilogues: set[relax.Var]) -> Iterable[Skipped]:
        for var, call in self.made.items():
            op = g.op_name(call)
            if not op or var in self.anchors or var in self.pooled or var in epilogues:
                continue
            if var in self.demanded and (ops.passes_through(call) or ops.is_pixels(call)):
                continue
            reason = self.reasons.get(var) or _general_reason(op, call, self.scheme)
            yield Skipped(op, var.name, reason)


def _general_reason(op: str, call: g.Expr, scheme: Scheme) -> str:
    row = OPS.get(op)
    if row is not None and row.quantize in _REASONS:
        return _REASONS[row.quantize]
    dtypes = {g.dtype_of(o) for o in ops.data_operands(call) if _is_tensor(o)}
    other = sorted(dtypes - {"float32"})
    if other:
        return f"{'/'.join(other)} data, only float32 is quantized"
    if op in ops.ELEMENTWISE or ops.passes_through(call):
        return f"not fed by an {scheme.name} kernel"
    return f"{op} is not in the {scheme.name} set"


def _is_tensor(expr: g.Expr) -> bool:
    return hasattr(getattr(expr, "ty", None), "dtype") and hasattr(expr.ty, "shape")


def _few(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "none at all"
