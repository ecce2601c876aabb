"""How Relax ops become loop nests for GPUs: TVM's own, and sums of bfloat16 in float32."""

from __future__ import annotations

import tvm
from tvm import relax

from lepton_tvm.ir.graph import Expr, dtype_of
from lepton_tvm.passes.lower.legalize.legalize import LEGALIZATIONS, Legalization

__all__ = ["GPU_LEGALIZATIONS"]

# Nests of a CPU's vector registers or instructions.
_OF_CPUS = ("relax.nn.softmax", "relax.nn.log_softmax", "relax.nn.layer_norm", "relax.astype")


def _in_float32(name: str) -> Legalization:
    """Widen a bfloat16 operand, round the result once; both fuse into the kernel."""

    def legalize(bb: relax.BlockBuilder, call: Expr) -> Expr:
        plain = LEGALIZATIONS.get(name) if name == "relax.mean" else None
        plain = plain or tvm.ir.Op.get(name).get_attr("FLegalize")
        if dtype_of(call.args[0]) != "bfloat16":
            return plain(bb, call)
        wide = bb.emit(relax.op.astype(call.args[0], "float32"))
        made = bb.normalize(tvm.ir.Call(call.op, [wide, *call.args[1:]], call.attrs))
        return relax.op.astype(bb.emit(plain(bb, made)), "bfloat16")

    return legalize


#: Op name -> its lowering for GPUs; ops that are not listed take TVM's.
GPU_LEGALIZATIONS: dict[str, Legalization] = {
    **{name: way for name, way in LEGALIZATIONS.items() if name not in _OF_CPUS},
    "relax.mean": _in_float32("relax.mean"),
    "relax.nn.avg_pool2d": _in_float32("relax.nn.avg_pool2d"),
}
