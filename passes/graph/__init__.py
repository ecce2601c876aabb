"""Float Relax to float Relax: every imported model is brought to one canonical form."""

from __future__ import annotations

from lepton_tvm.passes.graph.canonical import canonical_passes
from lepton_tvm.passes.graph.canonicalize import Canonicalize
from lepton_tvm.passes.graph.fold_batch_norm import FoldBatchNorm
from lepton_tvm.passes.graph.fold_preprocess import FoldPreprocess
from lepton_tvm.passes.graph.layout import ToNHWC
from lepton_tvm.passes.graph.name_bindings import NameBindings

__all__ = [
    "Canonicalize",
    "FoldBatchNorm",
    "FoldPreprocess",
    "NameBindings",
    "ToNHWC",
    "canonical_passes",
]
