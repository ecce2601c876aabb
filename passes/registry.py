"""Every pass by name: what `lepton-tvm inspect --passes` and the docs list."""

from __future__ import annotations

from typing import Any

from lepton_tvm.passes.graph import (
    Canonicalize,
    FoldBatchNorm,
    FoldPreprocess,
    NameBindings,
    ToNHWC,
)
from lepton_tvm.passes.lower import LowerInt8, LowerKernels, NameKernels
from lepton_tvm.passes.prune import PruneChannels, PruneMagnitude
from lepton_tvm.passes.quantize import InsertQDQ, SplitToSlices, ToBfloat16

__all__ = ["PASSES"]

#: Pass name -> its class, in the order in which a model meets them; its fields are the options.
PASSES: dict[str, type[Any]] = {
    one.name: one
    for one in (
        Canonicalize,
        FoldBatchNorm,
        ToNHWC,
        NameBindings,
        FoldPreprocess,
        PruneMagnitude,
        PruneChannels,
        SplitToSlices,
        InsertQDQ,
        ToBfloat16,
        LowerInt8,
        LowerKernels,
        NameKernels,
    )
}
