"""The passes that every imported model goes through, in order."""

from __future__ import annotations

from lepton_tvm.passes.base import Pass
from lepton_tvm.passes.canonicalize import Canonicalize
from lepton_tvm.passes.fold_batch_norm import FoldBatchNorm
from lepton_tvm.passes.layout import ToNHWC
from lepton_tvm.passes.name_bindings import NameBindings

__all__ = ["canonical_passes"]


def canonical_passes() -> list[Pass]:
    """Imported Relax module -> canonical form (see docs): run each in turn, keep every report."""
    return [
        Canonicalize(),  # one way to write each idea; constants folded
        FoldBatchNorm(),  # scale and shift into weights and bias
        ToNHWC(),  # channels last, constants permuted
        Canonicalize(),  # permutes meet and cancel
        NameBindings(),  # conv2d_0, add_0, ...
    ]
