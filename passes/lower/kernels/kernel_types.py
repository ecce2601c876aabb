"""Which convolutions and products have kernels over packed weights, and for which targets."""

from __future__ import annotations

import tvm

from lepton_tvm.errors import TargetError
from lepton_tvm.ir.graph import Array, Expr, bindings_of, dtype_of, main_of, op_name, shape_of
from lepton_tvm.ir.ops import named
from lepton_tvm.ir.precisions import BFLOAT16, FLOAT32, PRECISIONS
from lepton_tvm.passes.quantize.ops import is_depthwise
from lepton_tvm.passes.quantize.schemes import SCHEMES
from lepton_tvm.targets import FAMILIES, Target

__all__ = ["ANCHORS", "check_units", "why_no_kernel"]

#: Ops that become kernels over packed weights.
ANCHORS = named("lower", "packed")
# Element types of activations, weights and result that have kernels.
_TYPES = tuple((p.data, p.weight, p.sums) for p in PRECISIONS.values())
# A depthwise filter has no pairs of channels: its bfloat16 kernel computes in float32.
_DEPTHWISE_TYPES = (*_TYPES, (BFLOAT16.data, FLOAT32.weight, FLOAT32.sums))


def check_units(mod: tvm.IRModule, target: Target) -> None:
    """Raise TargetError for a model of a scheme for which the target has no kernels."""
    absent = {s.precision.data: s for s in SCHEMES.values() if not s.runs_on(target.level)}
    if not absent:
        return
    for binding in bindings_of(main_of(mod)):
        call = binding.value
        scheme = absent.get(dtype_of(call.args[0])) if op_name(call) in ANCHORS else None
        if scheme is None:
            continue
        levels = FAMILIES[target.family].levels.values()
        able = " or ".join(f"{target.family}:{i.name}" for i in levels if scheme.runs_on(i))
        raise TargetError(
            f"'{binding.var.name}' ({op_name(call)}) computes in {scheme.name}, for which {target} "
            f"has no {'instructions' if able else 'kernels'}: "
            + (f"compile for {able}, or " if able else "")
            + "compile the float32 model, or quantize that to int8"
        )


def why_no_kernel(call: Expr, weight: Array | None) -> str | None:
    """Why an anchor op has no kernel over packed weights; None where it has."""
    if weight is None:
        return "the second operand is not constant"
    if op_name(call) == "relax.matmul" and len(shape_of(call.args[0])) < 2:
        return "the first operand is a vector"
    if op_name(call) == "relax.nn.conv2d":
        layouts = (str(call.attrs.data_layout), str(call.attrs.kernel_layout))
        if layouts != ("NHWC", "HWIO"):
            return f"layouts {layouts} are not NHWC/HWIO"
    types = (dtype_of(call.args[0]), str(weight.dtype))
    if (*types, dtype_of(call)) not in (_DEPTHWISE_TYPES if is_depthwise(call) else _TYPES):
        return f"element types {types[0]} x {types[1]} to {dtype_of(call)} have no kernel"
    return None
