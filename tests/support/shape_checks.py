"""Whether a pruned graph still fits together."""

from __future__ import annotations

import tvm
from tvm import relax

from lepton_tvm.ir.graph import bindings_of, const_array, main_of, op_name


def check_shapes(mod: tvm.IRModule) -> None:
    """Every op still has the type that inference gives it, and every kernel fits its input."""
    relax.analysis.well_formed(mod)
    builder = relax.BlockBuilder()
    for binding in bindings_of(main_of(mod)):
        if not op_name(binding.value):
            continue
        call = binding.value
        inferred = builder.normalize(tvm.ir.Call(call.op, call.args, call.attrs, call.ty_args))
        assert [int(d) for d in inferred.ty.shape] == [int(d) for d in binding.var.ty.shape]
        if op_name(call) == "relax.nn.conv2d":
            kernel = const_array(call.args[1])
            assert kernel is not None
            assert kernel.shape[2] * int(call.attrs.groups) == int(call.args[0].ty.shape[3])
