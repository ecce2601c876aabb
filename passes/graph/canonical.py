"""The passes that every imported model goes through, and the form they bring it to.

Canonical form, on which every other pass relies:

- one Relax function `main`, one dataflow block; parameters are the user's inputs as the user gives
  them (NCHW), weights are constants; it returns a tensor, or a tuple of several;
- convolutions, pools and resizes are NHWC with HWIO weights (grouped: [KH, KW, C/groups, K]), and
  so is what stands between them; `permute_dims` only where the order of elements really changes;
- batch norm is folded; a bias is `add(conv, const[1,1,1,K])` or `add(matmul, const[N])`;
- bounds are `nn.relu`, `clip`, or `maximum`/`minimum` with a rank-0 constant; other activations are
  small elementwise ops; a dense layer is `matmul(x, const[K,N])`; a global average pool is
  `mean(x, axis=[1,2], keepdims=True)`; constants stand on the right of add and multiply, and there
  is no subtraction of, or division by, a floating-point constant;
- every binding is called `<op>_<number>`, unique, as reports show it.
"""

from __future__ import annotations

from lepton_tvm.passes.base import Pass
from lepton_tvm.passes.graph.canonicalize.canonicalize import Canonicalize
from lepton_tvm.passes.graph.fold_batch_norm import FoldBatchNorm
from lepton_tvm.passes.graph.layout.to_nhwc import ToNHWC
from lepton_tvm.passes.graph.name_bindings import NameBindings

__all__ = ["canonical_passes"]


def canonical_passes() -> list[Pass]:
    """Imported Relax module -> canonical form: run each in turn, keep every report."""
    return [
        Canonicalize(),  # one way to write each idea; constants folded
        FoldBatchNorm(),  # scale and shift into weights and bias
        ToNHWC(),  # channels last, constants permuted
        Canonicalize(),  # permutes meet and cancel
        NameBindings(),  # conv2d_0, add_0, ...
    ]
